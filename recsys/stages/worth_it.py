"""Is a language model worth it on this log? Answered from the log itself, and from whatever was measured already.

The dataset is prepared and the sequential rules are fitted where they are not there yet; nothing else is made. What is
found goes to `<storage>/<name>/worth-it`: `worth-it.json`, `worth-it.html` and its pictures.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from recsys import environment, storage
from recsys.checkpoint import load_checkpoint
from recsys.config import digest, key_values, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.decoders.item_encoder import TextEmbeddings, find_embeddings
from recsys.diagnosis.log import (
    describe_interval,
    measure_history,
    measure_resemblance,
    measure_successors,
    measure_targets,
)
from recsys.diagnosis.models import measure_models, teacher_cost
from recsys.diagnosis.page import describe, write_page
from recsys.diagnosis.sample import DEPTH, rank_by_signals
from recsys.diagnosis.verdict import conclude, judge_shortcuts, warn
from recsys.evaluation import results
from recsys.evaluation.ladder import LADDER
from recsys.evaluation.metrics import gains
from recsys.evaluation.ranking import model_scorer, rank_targets
from recsys.rules.config import RULES, RULES_WITH_TITLES
from recsys.rules.counts import Counts
from recsys.rules.model import SequentialRules, centre
from recsys.settings import Layout, Settings
from recsys.signals.signals import TeacherSignals
from recsys.stages import prepare, rules
from recsys.stages.artefacts import alone, is_current
from recsys.stages.executor import Executor

_VERSION = 1  # of what is measured and drawn: raise it when equal inputs would be told otherwise
NAME = "worth-it"
_CONSTANTS = ("window", "decay", "backward", "distance", "source", "target")


def make(settings: Settings, executor: Executor, *, force: bool = False) -> dict[str, Any]:
    """Measure, print and write the diagnosis; what it says.

    Raises:
        UserError: the data cannot be read, or a result of the ladder does not belong to it.
    """
    dataset = prepare.make(settings, executor)
    rules.make(settings, executor, signals=False)
    return _diagnose(settings, dataset, force=force)


def read_warnings(layout: Layout, fingerprint: str) -> list[str]:
    """What a diagnosis of this dataset has warned of, if there was one."""
    found = storage.read_json_if_whole(storage.join(layout.worth_it, f"{NAME}.json"))
    if not isinstance(found, dict) or found["dataset"]["fingerprint"] != fingerprint:
        return []
    return list(found["warnings"])


@alone(lambda settings, *_, **__: (settings.layout.worth_it, "the diagnosis"))
def _diagnose(settings: Settings, dataset: PreparedDataset, *, force: bool) -> dict[str, Any]:
    uri = settings.layout.worth_it
    ladder = storage.read_json_if_whole(storage.join(settings.layout.results, f"{LADDER}.json"))
    if isinstance(ladder, dict) and ladder["dataset"]["fingerprint"] != dataset.fingerprint:
        print("worth_it: the ladder is of another dataset, left out; run evaluate again", flush=True)
        ladder = None
    signals = storage.read_manifest(settings.layout.signals)
    inputs = [rules.key(settings), ladder, signals and signals.content_hash, settings.evaluation.bootstrap_samples]
    work = digest({"version": _VERSION, "worth_it": key_values(settings.worth_it), "inputs": inputs})
    page = storage.join(uri, f"{NAME}.html")
    found: dict[str, Any]
    if not force and is_current(uri, work):
        found = storage.read_json(storage.join(uri, f"{NAME}.json"))
        print(f"worth_it: unchanged, kept ({page})", flush=True)
    else:
        found = measure(settings, dataset, ladder)
        with storage.new_artifact(uri, key=work) as directory:
            (directory / f"{NAME}.json").write_text(json.dumps(found, indent=2) + "\n")
            write_page(Path(directory), found)
    for line in describe(found):
        print(line, flush=True)
    print(f"worth_it: {page}", flush=True)
    return found


def measure(settings: Settings, dataset: PreparedDataset, ladder: dict[str, Any] | None) -> dict[str, Any]:
    """Everything that is told, as plain JSON values."""
    asked, samples = settings.worth_it, settings.evaluation.bootstrap_samples
    rows = dataset.sample("valid", asked.rows, seed=0)
    counting = {
        kind: load_checkpoint(settings.layout.rules(kind))
        for kind in rules.KINDS
        if storage.read_manifest(settings.layout.rules(kind)) is not None
    }
    fitted = counting[RULES].model
    assert isinstance(fitted, SequentialRules)
    text = _titles(settings, dataset)
    found: dict[str, Any] = {
        "dataset": dataset.describe(),
        "rows": len(rows),
        "config": to_dict(asked),
        "rules": {name: getattr(fitted.config, name) for name in _CONSTANTS},
        "log": {
            "successors": measure_successors(dataset),
            "targets": measure_targets(dataset, rows),
            "counting": {kind: each.info.get("training", {}).get("valid") for kind, each in counting.items()},
            "history": measure_history(
                dataset, Counts.fit(dataset, fitted.config), rows, asked.latest, samples=samples
            ),
            "resemblance": None
            if text is None
            else measure_resemblance(dataset, centre(text.vectors, text.known), text.known.numpy(), asked.pairs),
        },
        "models": _models(settings, dataset, ladder) if ladder else None,
        "sample": _sample(settings, dataset, ladder),
        "teacher_cost": _teacher_cost(settings),
        "conditions": environment.conditions(),
    }
    found["shortcuts"] = judge_shortcuts(found["log"])
    found["warnings"] = warn(found)
    found["verdict"] = conclude(found)
    return found


def _titles(settings: Settings, dataset: PreparedDataset) -> TextEmbeddings | None:
    """The vectors of titles that the rules were fitted with; None where there are none."""
    if settings.rules.titles is None or storage.read_manifest(settings.layout.rules(RULES_WITH_TITLES)) is None:
        return None
    cache = storage.join(settings.layout.storage_root, "text-embeddings")
    return find_embeddings(settings.rules.titles, titles_hash=dataset.titles_hash, cache=cache)


def _models(settings: Settings, dataset: PreparedDataset, ladder: dict[str, Any]) -> dict[str, Any] | None:
    folder = settings.layout.results
    found = {row["name"]: results.read_result(folder, row["name"]) for row in ladder["rows"]}
    whole = {name: result for name, result in found.items() if result is not None}
    if gone := sorted(found.keys() - whole.keys()):
        print(f"worth_it: the results of {', '.join(gone)} are gone, all are left out; run evaluate again", flush=True)
        return None
    ranks = {name: results.read_ranks(folder, result) for name, result in whole.items()}
    samples = settings.evaluation.bootstrap_samples
    return measure_models(ladder, whole, ranks, dataset, settings.worth_it, samples=samples)


def _sample(settings: Settings, dataset: PreparedDataset, ladder: dict[str, Any] | None) -> dict[str, Any] | None:
    """The teacher's lists of validation rows against counting, and against the best student alone by the ladder."""
    layout = settings.layout
    if storage.read_manifest(layout.signals) is None:
        return None
    signals = TeacherSignals.load(layout.signals, dataset)
    rows, ranks = rank_by_signals(signals, dataset, dataset.rows("valid"))
    if not len(rows) or signals.meta.k < DEPTH:
        return None
    teacher, users = gains(ranks, DEPTH), dataset.users_of(rows)
    others = {RULES: layout.rules(RULES)}
    alone = [name for name, student in settings.students.items() if student.model.trained and not student.needs_teacher]
    quality = {row["name"]: row["metrics"]["masked"]["ndcg@10"] for row in (ladder or {}).get("rows", ())}
    if known := [name for name in alone if name in quality and storage.read_manifest(layout.student(name))]:
        best = max(known, key=lambda name: quality[name])
        others[best] = layout.student(best)
    better = []
    for name, uri in others.items():
        checkpoint = load_checkpoint(uri)
        checkpoint.check_dataset(dataset, name, "make it again")
        size = settings.evaluation.batch_size
        theirs = rank_targets(model_scorer(checkpoint.model), dataset, rows, mask_seen=True, batch_size=size)
        reached = gains(theirs, DEPTH)
        interval = describe_interval(teacher, reached, users, settings.evaluation.bootstrap_samples)
        better.append({"of": "teacher", "over": name, "reached": float(np.mean(reached)), **interval})
    return {"rows": len(rows), "teacher": float(teacher.mean()), "better": better}


def _teacher_cost(settings: Settings) -> dict[str, float] | None:
    layout = settings.layout
    if storage.read_manifest(layout.teacher) is None:
        return None
    training = load_checkpoint(layout.teacher).info.get("training", {}).get("curve", [])
    signals = storage.read_json_if_whole(storage.join(layout.signals, "signals.json"))
    cost = signals.get("cost") if isinstance(signals, dict) else None
    scaling = settings.teacher.scaling
    return teacher_cost(training, scaling.workers, scaling.gpus, cost, settings.worth_it)
