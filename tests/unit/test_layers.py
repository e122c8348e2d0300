"""Which module may import which: rooms import downward alone, nothing in a circle, Ray and MLflow where they belong."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of recsys/, from the ground up: a room imports itself and what stands before it.
ORDER = (
    "errors", "environment", "ports", "processes", "names", "secrets", "kinds", "fields", "config", "fetching",
    "manifest", "folders", "copies", "storage", "locks", "tracking_store", "tracking_run", "tracking",
    "tracking_registry", "data", "histories", "model", "checkpoint", "losses", "evaluation", "decoders", "signals",
    "distiller", "training", "teacher", "inference", "rules", "diagnosis", "teachers", "distillers", "students",
    "serving", "experiment", "settings", "tuning", "stages",
)  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module's name and file; a package goes by its own name."""
    files = [file for folder in ("recsys", "ray_jobs") for file in (ROOT / folder).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def names_in(source: str) -> Iterator[str]:
    """What is imported anywhere, within functions and for type checkers too; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def to_module(name: str) -> str | None:
    """The module of the project that gives a name; None for another's."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name if "." in name else None


@cache
def imports() -> dict[str, set[str]]:
    found = {name: {to_module(n) for n in names_in(file.read_text())} for name, file in modules().items()}
    return {name: {other for other in others if other not in (None, name)} for name, others in found.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def test_no_module_imports_itself_through_others() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail("a circle: " + " → ".join(reversed(error.args[1])))


def test_rooms_import_downward_alone() -> None:
    rooms = {room(module) for module in modules() if module.startswith("recsys.")}
    assert rooms == set(ORDER), "every room has its place in ORDER"
    upward = [
        f"{module} → {other}"
        for module, others in imports().items()
        for other in others
        if module.startswith("recsys.")
        and (other.startswith("ray_jobs") or ORDER.index(room(other)) > ORDER.index(room(module)))
    ]
    assert not upward


@pytest.mark.parametrize(
    ("library", "allowed"), [("ray", "ray_jobs."), ("mlflow", "recsys.tracking"), ("deepspeed", "recsys.")]
)
def test_libraries_stay_in_their_rooms(library: str, allowed: str) -> None:
    found = [
        module
        for module, file in modules().items()
        for name in names_in(file.read_text())
        if name.split(".")[0] == library and not module.startswith(allowed)
    ]
    assert not found


def test_all_kinds_of_import_are_seen() -> None:
    source = "import a.b\ndef f():\n    from c import d, e\nif TYPE_CHECKING:\n    from f.g import h as i\n"
    assert set(names_in(source)) == {"a.b", "c.d", "c.e", "f.g.h"}
    assert to_module("recsys.storage.join") == "recsys.storage" and to_module("numpy.array") is None
