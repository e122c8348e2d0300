"""Search spaces: what they hold, and that what cannot be is one clear sentence."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.sweeps.search import SPACES, load_space
from recsys.config import from_dict, load_config
from recsys.errors import UserError
from recsys.settings import Settings, StudentSettings
from recsys.tuning.config import SweepConfig, candidate, check, defaults, grid, reals

ROOT = Path(__file__).resolve().parents[3]
STUDENT = {"model": {"kind": "sasrec"}, "distillation": {}}


def student(**values: Any) -> StudentSettings:
    return from_dict(StudentSettings, {**STUDENT, **values})


def sweep(parameters: dict[str, Any], **values: Any) -> SweepConfig:
    return from_dict(SweepConfig, {"student": "s", "parameters": parameters, **values})


@pytest.mark.parametrize(
    ("space", "project"), [("dllm2rec-weights", "demo"), ("student-baseline", "demo"), ("slmrec-depth", "depth")]
)
def test_the_packaged_spaces_fit_the_packaged_projects(space: str, project: str) -> None:
    settings = load_config(Settings, ROOT / "ray_jobs" / "configs" / f"{project}.yaml")
    name, config = load_space(space)
    assert name == space and (SPACES / f"{space}.yaml").exists()
    check(settings.students[config.student], config.parameters)
    if project == "demo":
        assert defaults(settings.students[config.student], config.parameters), "what is known is tried too"


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"model.block": {"kind": "int", "low": 1, "high": 2}}, "model.sasrec.block: no such .*did you mean blocks"),
        ({"modle.blocks": {"kind": "int", "low": 1, "high": 2}}, "modle: no such .* did you mean model"),
        ({"model.width.x": {"kind": "int", "low": 1, "high": 2}}, "width is not a section"),
        ({"model.blocks": {"kind": "uniform", "low": 1, "high": 3}}, "valid integer"),
        ({"model.dropout": {"kind": "uniform", "low": 0.5, "high": 1.5}}, "model.dropout=1.5.*less than 1"),
        ({"loss.kind": {"kind": "choice", "values": ["softmax", "hinge"]}}, "loss.kind=hinge"),
        ({"model.width": {"kind": "choice", "values": [64, 33]}}, "width 33 is not divisible by heads 2"),
        ({"model.heads": {"kind": "int", "low": 1, "high": 4}}, "model.heads=3.*width 64 is not divisible by heads 3"),
        ({"scaling.workers": {"kind": "int", "low": 1, "high": 2}}, "changes nothing of what it learns"),
    ],
)
def test_what_the_student_does_not_take_is_refused(parameter: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check(student(), sweep(parameter).parameters)
    assert "\n" not in str(refused.value)


def test_values_that_do_not_go_together_are_refused() -> None:
    widths, heads = {"kind": "choice", "values": [32, 36]}, {"kind": "choice", "values": [2, 8]}
    check(student(), sweep({"model.width": widths}).parameters)
    with pytest.raises(UserError, match=r"model.width=36, model.heads=8.*not divisible"):
        check(student(), sweep({"model.width": widths, "model.heads": heads}).parameters)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parameters": {"x": {"kind": "uniform", "low": 2, "high": 1}}}, "the range is empty: low 2"),
        (
            {"parameters": {"x": {"kind": "loguniform", "low": 0, "high": 1}}},
            "low 0 of a loguniform range must be more than 0",
        ),
        ({"parameters": {"x": {"kind": "uniform", "low": 0, "high": float("inf")}}}, "finite"),
        ({"parameters": {"x": {"kind": "int", "low": 0, "high": 5, "step": 2}}}, "do not reach high 5"),
        ({"parameters": {"x": {"kind": "int", "low": 0.5, "high": 5}}}, "valid integer"),
        ({"parameters": {"x": {"kind": "choice", "values": []}}}, "values"),
        ({"parameters": {"x": {"kind": "choice", "values": [1, 1]}}}, "twice"),
        ({"parameters": {"x": {"kind": "normal"}}}, "expected tags: 'uniform', 'loguniform', 'int', 'choice'"),
        ({"parameters": {"x": {"kind": "choice", "value": [1]}}}, "no such configuration key"),
        ({"parameters": {}}, "at least 1"),
        ({"search": "grid"}, "parameters.x: a grid needs points"),
        ({"objectives": ["latency"]}, "quality must be one of them"),
        ({"trial": 3}, "trial: no such configuration key; did you mean trials"),
    ],
)
def test_what_is_no_space_is_refused(values: dict[str, Any], message: str) -> None:
    standard = {"student": "s", "parameters": {"x": {"kind": "uniform", "low": 0, "high": 1}}}
    with pytest.raises(UserError, match=message) as refused:
        from_dict(SweepConfig, {**standard, **values})
    assert "\n" not in str(refused.value)


def test_a_space_that_is_not_there_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no space 'nothing'.*dllm2rec-weights, slmrec-depth, student-baseline"):
        load_space("nothing")
    file = tmp_path / "mine.yaml"
    file.write_text("student: a\nparameters:\n  model.blocks: {kind: int, low: 1, high: 2}\n")
    name, config = load_space(str(file), student="b", trials="3", minutes=None)
    assert (name, config.student, config.trials, config.minutes) == ("mine", "b", 3, None)


def test_the_grid_is_every_combination() -> None:
    config = sweep(
        {
            "a": {"kind": "int", "low": 1, "high": 5, "step": 2},
            "b": {"kind": "uniform", "low": 0, "high": 1, "points": 3},
            "c": {"kind": "loguniform", "low": 0.01, "high": 1, "points": 3},
            "d": {"kind": "choice", "values": ["x", None]},
        },
        search="grid",
    )
    values = [tuple(point.values()) for point in grid(config.parameters)]
    expected = list(itertools.product([1, 3, 5], [0, 0.5, 1], [0.01, pytest.approx(0.1), 1], ["x", None]))
    assert values == expected
    for name, parameter in config.parameters.items():
        assert all(parameter.holds(point[name]) for point in grid(config.parameters))


def test_a_candidate_differs_at_its_keys_alone() -> None:
    base = student()
    changed = candidate(base, {"model.blocks": 3, "distillation.ranking.weight": 0.7})
    assert (changed.model.blocks, changed.distillation.ranking.weight) == (3, 0.7)
    assert candidate(changed, {"model.blocks": 2, "distillation.ranking.weight": 0.25}) == base
    alone = from_dict(StudentSettings, {"model": {"kind": "sasrec"}})
    assert candidate(alone, {"distillation.ranking.weight": 0.7}).distillation.ranking.weight == 0.7


def test_the_student_as_it_is_counts_where_it_lies_in_the_space() -> None:
    space = {
        "model.blocks": {"kind": "int", "low": 1, "high": 3},
        "model.dropout": {"kind": "uniform", "low": 0, "high": 1},
    }
    parameters = sweep(space).parameters
    assert defaults(student(), parameters) == {"model.blocks": 2, "model.dropout": 0.2}
    assert defaults(student(model={"kind": "sasrec", "blocks": 4}), parameters) is None
    assert defaults(student(model={"kind": "gru4rec"}), parameters) is None


def test_a_population_needs_what_it_changes() -> None:
    space = {"student": "s", "search": "population", "stopping": {"kind": "none"}}
    real, whole = {"kind": "uniform", "low": 0, "high": 1}, {"kind": "int", "low": 1, "high": 2}
    made = from_dict(SweepConfig, {**space, "parameters": {"model.dropout": real, "model.blocks": whole}})
    assert list(reals(made.parameters)) == ["model.dropout"]
    for values, said in (
        ({"parameters": {"model.blocks": whole}}, "a range of real numbers"),
        ({"stopping": {"kind": "asha"}}, "set stopping.kind=none"),
        ({"workers": 2}, "set workers=1"),
        ({"trials": 1}, "at least two trials"),
        ({"search": "tpe", "population": {"interval": 3}}, "but search is tpe"),
    ):
        with pytest.raises(UserError, match=said):
            from_dict(SweepConfig, {**space, "parameters": {"model.dropout": real}, **values})
