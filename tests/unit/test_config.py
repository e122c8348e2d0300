"""YAML and overrides fill frozen dataclasses; what does not fit is one line with the mend."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from recsys import fields
from recsys.config import Field, configuration, digest, from_dict, load_config, to_dict
from recsys.errors import UserError
from recsys.settings import Settings

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "ray_jobs" / "configs").glob("*.yaml"))


@configuration
class Inner:
    rate: float = Field(default=0.1, gt=0)
    kind: Literal["a", "b"] = "a"


@configuration
class Round:
    form: Literal["round"] = "round"
    label: str = ""


@configuration
class Square:
    form: Literal["square"]
    label: str = ""
    side: int = 1


@configuration
class Outer:
    name: str = "x"
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: dict[str, Inner] = Field(default_factory=dict)
    sizes: tuple[int, ...] = (1, 2)
    note: str | None = "n"
    tags: tuple[str, ...] = ()
    yes: bool = False
    count: int | None = 3
    depth: int | tuple[int, ...] | None = None
    shape: Annotated[Round | Square, Field(discriminator="form")] = Round()
    free: dict[str, Any] | None = None

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


@pytest.mark.parametrize(
    "text", ["/data/run #3", "007", "yes", "1e3", "2024-01-01", "[1", "'x'", "a: b", " x ", "~", "="]
)
def test_a_text_field_takes_the_text_as_it_stands(text: str) -> None:
    assert load_config(Outer, None, [f"name={text}"]).name == text
    assert load_config(Outer, None, [f"note={text}"]).note == text
    assert load_config(Outer, None, ["shape.form=round", f"shape.label={text}"]).shape.label == text
    assert load_config(Outer, None, ["shape.form=square", f"shape.label={text}"]).shape == Square(
        form="square", label=text
    )


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("note=null", "note", None),
        ("name=", "name", ""),
        ("name=null", "name", "null"),
        ("tags=[007, yes, 'null', a b]", "tags", ("007", "yes", "null", "a b")),
        ("shape={form: square, label: 007, side: 2}", "shape", Square(form="square", label="007", side=2)),
        ("many={a: {rate: 3}}", "many", {"a": Inner(rate=3)}),
        ("maybe=null", "maybe", None),
        ("yes=on", "yes", True),
        ("yes=True", "yes", True),
        ("count=010", "count", 10),
        ("count=null", "count", None),
        ("depth=4", "depth", 4),
        ("depth=[4, 5]", "depth", (4, 5)),
        ("free={a: 007, b: yes, c: x}", "free", {"a": 7, "b": True, "c": "x"}),
    ],
)
def test_what_a_field_takes_decides_how_text_is_read(override: str, field: str, value: object) -> None:
    assert getattr(load_config(Outer, None, [override]), field) == value


def test_names_with_dots_are_found_where_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("many: {v1.5: {kind: b}, v1: {kind: a}}\n")
    config = load_config(Outer, tmp_path / "c.yaml", ["many.v1.5.rate=3", "many.v1.rate=4", "many.v2.rate=5"])
    assert {name: inner.rate for name, inner in config.many.items()} == {"v1.5": 3, "v1": 4, "v2": 5}


def test_no_field_takes_both_text_and_numbers() -> None:
    """There the text alone could not tell which is meant."""
    seen: set[type] = set()

    def look(section: Any) -> None:
        if section in seen:
            return
        seen.add(section)
        for field in dataclasses.fields(section):
            types = fields.at([section], field.name)
            assert not {str} < set(types) - {type(None)}, f"{section.__name__}.{field.name}"
            for inner in fields.sections(types):
                look(inner)

    look(Settings)
    assert len(seen) > 25


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
        (
            ["zzz=1"],
            "zzz: no such configuration key; known keys: count, depth, free, inner, many, maybe, name, note,",
        ),
        (["many.one.rat=1"], "many.one.rat: no such configuration key; did you mean rate?"),
        (["maybe.rat=1"], "maybe.rat: no such configuration key; did you mean rate?"),
        (["inner.rate=0"], "inner.rate: should be greater than 0 (got 0)"),
        (["inner.rate=fast"], "inner.rate: should be a valid number, unable to parse string as a number (got 'fast')"),
        (["inner.kind=c"], "inner.kind: should be 'a' or 'b' (got 'c')"),
        (["name=bad"], "name bad is reserved; choose another"),
        (["rate"], "override 'rate' is not of the form key=value"),
        (["=1"], "override '=1' is not of the form key=value"),
        (["sizes=[1"], "override 'sizes=[1': the value is not valid YAML"),
        (["sizes=[{[a]: 1}]"], "the value is not valid YAML"),
        (["inner="], "override 'inner=': nothing stands after the ="),
        (["maybe="], "override 'maybe=': nothing stands after the =; say null for none"),
        (["inner.rate= "], "nothing stands after the ="),
        (["inner.rate=nan"], "inner.rate: should be a finite number"),
        (["note="], "override 'note=': nothing stands after the =; say null for none"),
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
        (b"name: 2024-99-99", "is not valid YAML"),
        (b"[" * 5000, "is not valid YAML"),
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


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder; name a YAML file in it"):
        load_config(Outer, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/c\.yaml cannot be read: Not a directory"):
        load_config(Outer, tmp_path / "file" / "c.yaml")


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
