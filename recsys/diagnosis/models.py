"""What was measured of the models of a project: students alone and taught, hybrids, controls and the teacher, with
intervals, costs, and who is better than whom.

Legend: R test rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.data.prepared import PreparedDataset
from recsys.diagnosis.config import WorthItConfig
from recsys.diagnosis.log import describe_interval
from recsys.evaluation.config import name_rule
from recsys.evaluation.metrics import gains
from recsys.evaluation.results import Ranks, Result

GROUPS = {
    "counting": "counting",
    "alone": "student alone",
    "taught": "student taught by counts",
    "taught-control": "control: counts' lists of other rows",
    "hybrid": "student alone, counts added",
    "distilled": "student taught by the teacher",
    "control": "control: the teacher's lists of other rows",
    "teacher": "teacher",
}
WITHOUT_TEACHER = ("counting", "alone", "taught", "hybrid")
_MILLION = 1_000_000
RULES_SIGNALS = "rules"  # the set of signals that the sequential rules leave (`recsys.stages.rules`)


def measure_models(
    ladder: Mapping[str, Any],
    results: Mapping[str, Result],
    ranks: Mapping[str, Ranks],
    dataset: PreparedDataset,
    config: WorthItConfig,
    *,
    samples: int,
) -> dict[str, Any]:
    """The rows of a ladder with what a decision needs.

    Args:
        results, ranks: of every row of the ladder.
        samples: of the bootstrap over users.

    Returns:
        rows: name, group, about, NDCG@10 with its interval, milliseconds of one history, what a million recommendations
        cost; best: group → name, and `without`, the best that needs no teacher; better: pairs of names with the
        difference of their NDCG@10 and its interval, each the best of its group.
    """
    rule = name_rule(ladder["mask_seen"])
    gpus = float(ladder["conditions"]["evaluation"].get("gpus", 0))
    reached = {name: gains(each.by_rule[rule], 10) for name, each in ranks.items()}
    users = {name: dataset.users_of(each.rows) for name, each in ranks.items()}
    rows = []
    for row in ladder["rows"]:
        name, settings = row["name"], results[row["name"]].training.get("settings", {})
        milliseconds = row["latency"].get("median_ms")
        rows.append(
            {
                "name": name,
                "group": find_group(row, settings, results),
                "about": row.get("about", ""),
                "ndcg@10": describe_interval(reached[name], np.zeros(len(users[name])), users[name], samples),
                "ms": milliseconds,
                "per_million": None if milliseconds is None else cost_of(milliseconds * _MILLION / 1000, gpus, config),
            }
        )
    kinds = {group: (group,) for group in GROUPS} | {"without": WITHOUT_TEACHER}
    best = {
        kind: max(found, key=lambda row: row["ndcg@10"]["mean"])["name"]
        for kind, groups in kinds.items()
        if (found := [row for row in rows if row["group"] in groups])
    }

    def compare(one: str, other: str) -> dict[str, Any]:
        assert np.array_equal(ranks[one].rows, ranks[other].rows), "both were ranked on the same split"
        return {"of": one, "over": other, **describe_interval(reached[one], reached[other], users[one], samples)}

    pairs = [(best.get(a), best.get(b)) for a, b in _PAIRS]
    return {
        "rule": rule,
        "rows": rows,
        "best": best,
        "better": [compare(one, other) for one, other in pairs if one and other],
    }


_PAIRS = (
    ("counting", "alone"),
    ("teacher", "alone"),
    ("teacher", "counting"),
    ("taught", "alone"),
    ("taught", "taught-control"),
    ("hybrid", "alone"),
    ("hybrid", "counting"),
    ("distilled", "alone"),
    ("distilled", "control"),
    ("distilled", "without"),
)


def find_group(row: Mapping[str, Any], settings: Mapping[str, Any], results: Mapping[str, Result]) -> str:
    """Which of `GROUPS` a row of the ladder is of; a hybrid of a student that was taught is of the student's group."""
    if row["role"] != "student":
        return "counting" if row["role"] == "baseline" else "teacher"
    hybrid, own = row["kind"] == "hybrid", settings
    if hybrid:
        made_of = settings.get("model", {}).get("student")
        own = results[made_of].training.get("settings", {}) if made_of in results else {}
    distillation = own.get("distillation") or {}
    by_counts = distillation.get("signals") == RULES_SIGNALS
    if any((distillation.get(part) or {}).get("permuted") for part in ("ranking", "distiller")):
        return "taught-control" if by_counts else "control"
    if distillation or (row["distilled"] and not hybrid):
        return "taught" if by_counts else "distilled"
    return "hybrid" if hybrid else "alone"


def cost_of(seconds: float, gpus: float, config: WorthItConfig) -> float:
    """What so many seconds of one process cost."""
    return seconds / 3600 * (gpus * config.gpu_hour if gpus else config.core_hour)


def teacher_cost(
    training: Sequence[Mapping[str, float]],
    workers: int,
    gpus: float,
    signals: Mapping[str, Any] | None,
    config: WorthItConfig,
) -> dict[str, float]:
    """Hours and cost of a teacher, until its signals are there.

    Args:
        training: its learning curve; workers, gpus: processes, and GPUs of each.
        signals: `cost` of its signals, None where there are none.
    """
    trained = workers * sum(record.get("train_seconds", 0) + record.get("valid_seconds", 0) for record in training)
    passed = float((signals or {}).get("device_seconds") or 0.0)
    pass_gpus = float((signals or {}).get("gpus_per_actor") or 0.0)
    return {
        "training_hours": trained / 3600,
        "pass_hours": passed / 3600,
        "cost": cost_of(trained, gpus, config) + cost_of(passed, 1.0 if pass_gpus else 0.0, config),
    }
