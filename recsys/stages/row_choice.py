"""Which training rows the teacher ranks, where `signals.choose_rows` chooses them otherwise than by chance.

The rows lie in `<storage>/<name>/chosen-rows`: `rows.parquet`, and `chosen.json`, which says how they were chosen and
how long it took. Neither validation nor test rows are looked at. The rules are asked as of a user who was never
counted; the student has learned from the rows that it is asked about, so that it is least uncertain of what it knows by
heart.
"""

import json
import time
from functools import partial

import numpy as np
import torch

from recsys import storage
from recsys.checkpoint import Checkpoint, load_checkpoint
from recsys.config import digest
from recsys.data.prepared import PreparedDataset
from recsys.evaluation.ranking import mask_past, model_scorer, score_batches
from recsys.inference.ranking import check_k
from recsys.rules.config import RULES
from recsys.rules.model import SequentialRules
from recsys.rules.signals import RulesTeacher
from recsys.settings import Layout, Settings
from recsys.signals.config import SignalsConfig
from recsys.signals.row_choice import disagreement, entropy, order_by, order_by_turns, write_chosen
from recsys.stages.artefacts import alone, fingerprint, is_current, require, require_alone
from recsys.stages.executor import Executor

_CELLS_AT_ONCE = 1 << 22  # scores in memory, some times over
_ROWS_AT_ONCE = 1024
_SEED = 0


def find_needed_students(settings: Settings) -> list[str]:
    """The student that rows are chosen by, which is trained before the teacher ranks them; none where none is asked.

    Raises:
        UserError: there is no such student, or it learns from the teacher itself.
    """
    name = settings.signals.choose_student
    if name is None:
        return []
    require_alone(settings, name, "signals.choose_student")
    return [name]


def inputs(settings: Settings) -> dict[str, str]:
    """What the choice adds to the key of signals: nothing where rows are a random sample.

    Raises:
        UserError: what they are chosen by is not there yet.
    """
    return {} if settings.signals.choose_rows == "random" else {"chosen_rows": key(settings)}


def key(settings: Settings) -> str:
    """Digest of everything that the choice depends on.

    Raises:
        UserError: the dataset, the student or the rules are not there yet.
    """
    config, layout = settings.signals, settings.layout
    depends = {"choose_rows": config.choose_rows, "train_rows": config.train_rows, "dataset": fingerprint(layout)}
    for name in find_needed_students(settings):
        checkpoint = require(layout.student(name), f"student {name}", f"distill --student {name}")
        depends |= {"student": checkpoint.content_hash, "mask_history": config.mask_history}
    if config.choose_rows == "disagreement":
        depends |= {"rules": require(layout.rules(RULES), "sequential rules", "rules").content_hash, "k": config.k}
    return digest(depends)


def make(settings: Settings, executor: Executor, *, force: bool = False) -> str | None:
    """URI of the chosen rows, which are chosen unless they are there; None where they are a random sample.

    Raises:
        UserError: what they are chosen by is not there yet, or is of another dataset.
    """
    if settings.signals.choose_rows == "random":
        return None
    _make(settings, executor, force=force)
    return settings.layout.chosen_rows


@alone(lambda settings, *_, **__: (settings.layout.chosen_rows, "the chosen rows"))
def _make(settings: Settings, executor: Executor, *, force: bool) -> None:
    config, layout, work = settings.signals, settings.layout, key(settings)
    if not force and is_current(layout.chosen_rows, work):
        print(f"chosen rows: {layout.chosen_rows} is up to date", flush=True)
        return
    choose = partial(_choose, config, layout, work)
    print(executor.call(choose, cpus=config.cpus, gpus=0, section="signals"), flush=True)


def _choose(config: SignalsConfig, layout: Layout, work: str) -> str:
    """In a worker: choose, and write what was chosen; the line to print."""
    dataset = PreparedDataset.load(layout.dataset)
    rows, started = dataset.rows("train"), time.perf_counter()
    if config.choose_rows == "coverage":
        order = order_by_turns(dataset.targets(rows), seed=_SEED)
    else:
        order = order_by(measure(config, layout, dataset, rows), seed=_SEED)
    chosen = np.sort(rows[order[: config.train_rows]])
    seconds = round(time.perf_counter() - started, 3)
    said = {**config.choice, "rows": len(chosen), "of": len(rows), "seconds": seconds}
    with storage.new_artifact(layout.chosen_rows, key=work) as directory:
        write_chosen(directory, chosen)
        (directory / "chosen.json").write_text(json.dumps(said, indent=2) + "\n")
    return f"chosen rows: {len(chosen):,} of {len(rows):,} training rows by {config.choose_rows} in {seconds:.1f} s"


@torch.inference_mode()
def measure(config: SignalsConfig, layout: Layout, dataset: PreparedDataset, rows: np.ndarray) -> np.ndarray:
    """How uncertain the student is of each of `rows` [R] (nats), or how much the rules disagree with it (share), [R].

    Memory is in proportion to a few million scores, whatever the rows; time is that of a forward pass for each row.

    Raises:
        UserError: the student or the rules are of another dataset, or K is larger than what can be ranked.
    """
    assert config.choose_student is not None
    score = model_scorer(_load(layout.student(config.choose_student), dataset, config.choose_student).model)
    memory = None
    if config.choose_rows == "disagreement":
        check_k(dataset, rows, config.k, config.mask_history)
        rules = _load(layout.rules(RULES), dataset, "this set of rules").model
        assert isinstance(rules, SequentialRules)
        memory = RulesTeacher(rules, dataset)
    values = np.empty(len(rows))
    size, done = max(1, min(_ROWS_AT_ONCE, _CELLS_AT_ONCE // (dataset.num_items + 1))), 0
    for batch, scores, _ in score_batches(score, dataset, rows, size, "cpu"):
        scores[:, 0] = -torch.inf
        if config.mask_history:
            mask_past(scores, dataset, batch)
        if memory is None:
            found = entropy(scores).numpy()
        else:
            theirs = memory.rank(batch, config.k, mask_history=config.mask_history, log_mass=False)
            found = disagreement(scores.topk(config.k, dim=1).indices.numpy(), theirs.items)
        values[done : done + len(batch)] = found
        done += len(batch)
    return values


def _load(uri: str, dataset: PreparedDataset, what: str) -> Checkpoint:
    checkpoint = load_checkpoint(uri)
    checkpoint.check_dataset(dataset, what, "make it again")
    return checkpoint
