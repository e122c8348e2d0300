"""Where a test lies says what it tests: tests/unit/x/test_y.py is of recsys/x/y.py, or of the package recsys/x/y.

Those of `ray_jobs` and `benchmarks` lie in folders of these names.
"""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "tests" / "unit"
# What no module alone answers for.
ACROSS = {
    "test_layers.py": "who may import whom",
    "test_mirrors.py": "this",
    "data/test_fixture.py": "the data set that all tests share",
    "data/test_foreign_data.py": "data as other people write it, from the file to the prepared dataset",
    "data/test_odd_files.py": "files that are damaged or unusual, from the file to the prepared dataset",
    "serving/test_hostile_requests.py": "what the application makes of requests that are wrong in every way",
    "teachers/bigrec/test_partial_signals.py": "from a teacher that ranked some rows to a student",
    "training/test_zero.py": "weights split by DeepSpeed, from the engine to the checkpoint",
}


def module_of(test: Path) -> Path:
    """The module, without its ending, of which a test says by its place that it is."""
    place = test.relative_to(UNIT)
    outside = place.parts[0] in ("ray_jobs", "benchmarks")
    return (ROOT if outside else ROOT / "recsys") / place.with_name(place.stem.removeprefix("test_"))


@pytest.mark.parametrize("test", sorted(UNIT.rglob("test_*.py")), ids=lambda test: str(test.relative_to(UNIT)))
def test_every_test_is_of_a_module(test: Path) -> None:
    module = module_of(test)
    there = module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()
    assert there != (str(test.relative_to(UNIT)) in ACROSS), f"{module.relative_to(ROOT)} is no module of the project"


def test_what_is_across_is_there() -> None:
    assert [name for name in ACROSS if not (UNIT / name).is_file()] == []
