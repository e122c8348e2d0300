"""YAML and overrides fill frozen dataclasses; what does not fit is one line with the mend."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from recsys.settings import Settings
from recsys.config import Field, configuration, digest, from_dict, load_config, to_dict
from recsys.errors import UserError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "ray_jobs" / "configs").glob("*.yaml"))


@configuration
class Inner:
    rate: float = Field(default=0.1, gt=0)
    kind: Literal["a", "b"] = "a"


@configuration
class Outer:
    name: str = "x"
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: dict[str, Inner] = Field(default_factory=dict)
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("name bad is reserved; choose another")


def test_file_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: file\ninner: {rate: 0.5}\nmany: {one: {kind: b}}\n")
    config = load_config(
        Outer, tmp_path / "c.yaml", ["inner.rate=2", "many.two.rate=3e-4", "sizes=[4, 5]", "maybe.kind=b"]
    )
    assert config == Outer(
        name="file",
        inner=Inner(rate=2),
        maybe=Inner(kind="b"),
        many={"one": Inner(kind="b"), "two": Inner(rate=3e-4)},
        sizes=(4, 5),
    )


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(Outer, tmp_path / "empty.yaml") == load_config(Outer, None) == Outer()


def test_an_override_may_fill_an_empty_section(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("inner:\n")
    assert load_config(Outer, tmp_path / "c.yaml", ["inner.rate=1"]).inner.rate == 1


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Outer().name = "y"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["inner.rat=1"], "inner.rat: no such configuration key; did you mean rate?"),
        (["zzz=1"], "zzz: no such configuration key; known keys: inner, many, maybe, name, sizes"),
        (["many.one.rat=1"], "many.one.rat: no such configuration key; did you mean rate?"),
        (["maybe.rat=1"], "maybe.rat: no such configuration key; did you mean rate?"),
        (["inner.rate=0"], "inner.rate: should be greater than 0 (got 0)"),
        (["inner.rate=fast"], "inner.rate: should be a valid number, unable to parse string as a number (got 'fast')"),
        (["inner.kind=c"], "inner.kind: should be 'a' or 'b' (got 'c')"),
        (["name=bad"], "name bad is reserved; choose another"),
        (["rate"], "override 'rate' is not of the form key=value"),
        (["=1"], "override '=1' is not of the form key=value"),
        (["name=[1"], "override 'name=[1': the value is not valid YAML"),
        (["name.x=1", "name.x.y=2"], "override 'name.x.y=2': x is not a section"),
    ],
)
def test_what_does_not_fit_is_one_line(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Outer, None, overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1\nb: 2", "is not valid YAML"),
        (b"- a\n- b\n", "must hold a mapping"),
        (b"name: \xff\xfe", "is not valid YAML"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        load_config(Outer, tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_config(Outer, tmp_path / "nowhere.yaml")


def test_plain_values_and_back() -> None:
    config = Outer(maybe=Inner(kind="b"), sizes=(7,))
    assert from_dict(Outer, to_dict(config)) == config


def test_digest_depends_on_values_alone() -> None:
    assert digest(Outer()) == digest(from_dict(Outer, {"name": "x"})) == digest(to_dict(Outer()))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(Outer()) != digest(Outer(name="y"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_accepted(path: Path) -> None:
    settings = load_config(Settings, path)
    assert settings.serving.student in settings.students
    assert from_dict(Settings, to_dict(settings)) == settings
