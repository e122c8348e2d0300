"""Evaluation: baselines, students and teacher on the test rows, and the quality ladder.

Each model ranks the whole catalogue for every test row by both rules for seen items, and leaves one results JSON and
the ranks beside it (`recsys.evaluation.results`). What was evaluated before and is unchanged is kept. Then every model
is timed on single histories, in turn. The ladder goes to `<storage>/<name>/results/ladder.json`.

Memory of a task: the dataset, the model, and `evaluation.batch_size` times the catalogue in scores.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from recsys import environment, storage
from recsys.checkpoint import Checkpoint, load_checkpoint
from recsys.config import digest, to_dict
from recsys.data.prepared import PreparedDataset
from recsys.evaluation import results
from recsys.evaluation.baselines import CoOccurrence, RecentPopularity, fit_baseline
from recsys.evaluation.config import EvaluationConfig, name_rule
from recsys.evaluation.ladder import LADDER, build_rows, print_ladder
from recsys.evaluation.latency import time_single_requests
from recsys.evaluation.ranking import Scorer, model_scorer
from recsys.rules.config import RULES, RULES_WITH_TITLES
from recsys.settings import Layout, Settings
from recsys.stages.artefacts import alone, require, start_run
from recsys.stages.executor import Executor

BASELINES = (RecentPopularity.kind, CoOccurrence.kind)
RULES_KINDS = (RULES, RULES_WITH_TITLES)


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        uri: of the checkpoint, "" for a baseline that is fitted on the spot.
        key: digest of what its result depends on.
    """

    name: str
    role: str
    uri: str
    key: str
    seed: int | None


def list_subjects(settings: Settings, only: Collection[str] | None = None) -> list[Subject]:
    """Baselines, the students that have a checkpoint, the teacher if it has one; or those of some names alone.

    Raises:
        UserError: there is no dataset.
    """
    layout, config = settings.layout, settings.evaluation
    dataset = require(layout.dataset, "prepared dataset", "prepare_data")
    sampled = [to_dict(config.sampled)] if config.sampled else []
    constants = {RecentPopularity.kind: config.recent_days, CoOccurrence.kind: to_dict(config.cooccurrence)}
    found = [
        Subject(name, "baseline", "", digest([name, constants[name], dataset.content_hash, *sampled]), None)
        for name in BASELINES
    ]
    models = [
        *((kind, "baseline", layout.rules(kind), None) for kind in RULES_KINDS),
        *((name, "student", layout.student(name), s.training.seed) for name, s in settings.students.items()),
        ("teacher", "teacher", layout.teacher, settings.teacher.training.seed),
    ]
    for name, role, uri, seed in models:
        if only is not None and name not in only:
            continue
        checkpoint = storage.read_manifest(uri)
        if checkpoint is None and role == "baseline":
            continue
        if checkpoint is None:
            print(f"evaluate: {name} has no checkpoint in {uri}, left out", flush=True)
        else:
            work = digest([name, checkpoint.content_hash, dataset.content_hash, *sampled])
            found.append(Subject(name, role, uri, work, seed))
    return [subject for subject in found if only is None or subject.name in only]


def pair_twins(settings: Settings) -> dict[str, str]:
    """Distilled student → the student alone that it is compared with: same kind; most equal configuration first.

    A hybrid is compared with the student that it is made of.
    """
    alone = {name: s for name, s in settings.students.items() if not s.distilled}
    pairs = {}
    for name, student in settings.students.items():
        if student.model.with_rules and student.model.made_from:
            pairs[name] = student.model.made_from
            continue
        same_kind = [other for other, s in alone.items() if s.model.kind == student.model.kind]
        if student.distilled and same_kind:
            pairs[name] = max(
                same_kind,
                key=lambda other: (
                    alone[other].loss.kind == student.loss.kind,
                    alone[other].model == student.model,
                    alone[other].training.seed == student.training.seed,
                ),
            )
    return pairs


def key(settings: Settings, found: Sequence[Subject]) -> str:
    """Digest of what the ladder depends on."""
    config = settings.evaluation
    shown = [config.mask_seen, config.latency_requests, config.bootstrap_samples]
    return digest([[(s.name, s.key) for s in found], pair_twins(settings), shown])


@alone(lambda settings, *_, **__: (settings.layout.results, "the evaluation"))
def make(settings: Settings, executor: Executor, *, force: bool = False) -> list[dict[str, Any]]:
    """Evaluate what is missing or changed, write and print the ladder.

    Returns:
        The rows of the ladder (`recsys.evaluation.ladder.build_rows`).
    """
    layout = settings.layout
    found = list_subjects(settings)
    work = key(settings, found)
    stored = storage.read_json_if_whole(storage.join(layout.results, f"{LADDER}.json"))
    missing = [s for s in found if force or not results.is_current(layout.results, s.name, s.key)]
    if not missing and isinstance(stored, dict) and stored.get("key") == work:
        print("evaluation: unchanged, kept", flush=True)
        print_ladder(stored)
        return list(stored["rows"])
    with start_run(settings, "evaluate", params=to_dict(settings.evaluation)) as recorded:
        evaluate_all(missing, layout, settings.evaluation, executor)
        print("evaluate: timing single histories", flush=True)
        names = {s.name for s in found}
        pairs = {a: b for a, b in pair_twins(settings).items() if {a, b} <= names}
        ladder = _ladder(settings, found, pairs, work, executor)
        storage.write_json(storage.join(layout.results, f"{LADDER}.json"), ladder)
        recorded.log_metrics({row["name"]: {**row["metrics"], **row["latency"]} for row in ladder["rows"]})
        recorded.set_tags({"dataset": ladder["dataset"]["fingerprint"], "ladder": layout.results})
        for row in ladder["rows"]:
            if row["role"] == "student":
                result = describe_version(row, ladder["dataset"]["fingerprint"])
                recorded.register_result(settings.name, result, same=("checkpoint", "dataset"))
    print_ladder(ladder)
    return list(ladder["rows"])


def describe_version(row: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """What the model registry says of a student: whose checkpoint it is, and what was measured of it."""
    return {
        "student": row["name"],
        "kind": row["kind"],
        "checkpoint": row["checkpoint_hash"],
        "dataset": fingerprint,
        **row["metrics"],
        **row["latency"],
    }


def evaluate_all(missing: Sequence[Subject], layout: Layout, config: EvaluationConfig, executor: Executor) -> None:
    """Evaluate each, the teacher first because it takes longest; a line for each."""
    order = list(reversed(missing))

    def done(number: int, metrics: dict[str, float]) -> None:
        print(f"evaluate: {order[number].name}  NDCG@10 {metrics['ndcg@10']:.4f}", flush=True)

    works = [partial(evaluate_one, subject, layout, config) for subject in order]
    executor.call_all(works, cpus=config.cpus, gpus=config.gpus, section="evaluation", done=done)


def _ladder(
    settings: Settings, found: Sequence[Subject], pairs: dict[str, str], work: str, executor: Executor
) -> dict[str, Any]:
    layout, config = settings.layout, settings.evaluation
    measured = [results.read_result(layout.results, subject.name) for subject in found]
    dataset = PreparedDataset.load(layout.dataset)
    # After the rest, alone.
    timing = partial(_time, list(found), layout, config)
    latency = executor.call(timing, cpus=config.cpus, gpus=config.gpus, section="evaluation")
    whole = [result for result in measured if result is not None]
    assert len(whole) == len(found), "every task wrote its result"
    paired = {name for pair in pairs.items() for name in pair}
    ranks = {r.name: results.read_ranks(layout.results, r) for r in whole if r.name in paired}
    rows = build_rows(whole, ranks, latency, pairs, dataset, bootstrap_samples=config.bootstrap_samples)
    return {
        "key": work,
        "mask_seen": config.mask_seen,
        "dataset": dataset.describe(),
        "test_rows": len(dataset.rows("test")),
        "seen_targets": max(result.seen_targets for result in whole),
        "rows": rows,
        "conditions": {**environment.conditions(), "evaluation": to_dict(config)},
    }


def evaluate_one(subject: Subject, layout: Layout, config: EvaluationConfig) -> dict[str, float]:
    """One model or baseline by both rules, its result written; the metrics of the rule that is shown."""
    dataset = PreparedDataset.load(layout.dataset)
    score, facts = _load(subject, dataset, config)
    result, ranks = results.evaluate(
        score,
        dataset,
        "test",
        batch_size=config.batch_size,
        device=config.device,
        sampled=config.sampled,
        name=subject.name,
        role=subject.role,
        key=subject.key,
        seed=subject.seed,
        **facts,
    )
    results.write_result(layout.results, result, ranks)
    return result.metrics[name_rule(config.mask_seen)]


def _time(found: list[Subject], layout: Layout, config: EvaluationConfig) -> dict[str, dict[str, float]]:
    """Every model in one process, in turn."""
    dataset = PreparedDataset.load(layout.dataset)
    scorers = {subject.name: _load(subject, dataset, config)[0] for subject in found}
    return time_single_requests(
        scorers, dataset, dataset.rows("test"), requests=config.latency_requests, device=config.device
    )


def _load(subject: Subject, dataset: PreparedDataset, config: EvaluationConfig) -> tuple[Scorer, dict[str, Any]]:
    """A scorer and what `results.Result` says of it."""
    if not subject.uri:
        baseline = fit_baseline(subject.name, dataset, config)
        facts: dict[str, Any] = {"kind": baseline.kind, "checkpoint_hash": None, "training": {}}
        return baseline, {**facts, "parameters": {"trainable": 0, "served": baseline.stored}}
    checkpoint = load_checkpoint(subject.uri, config.device)
    checkpoint.check_dataset(dataset, subject.name, "train it again")
    return model_scorer(checkpoint.model), {
        "kind": checkpoint.model.kind,
        "checkpoint_hash": checkpoint.hash,
        "training": {name: checkpoint.info[name] for name in ("training", "settings") if name in checkpoint.info},
        "parameters": _parameters(checkpoint),
    }


def _parameters(checkpoint: Checkpoint) -> dict[str, int]:
    from recsys.decoders.quantised import numbers_and_bytes

    model = checkpoint.model
    served, size = numbers_and_bytes(model)
    return {
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "served": served,
        "bytes": size,
    }
