"""What the text after `key=` stands for, by the type of the field."""

from typing import Annotated, Any, Literal

import pytest

from recsys import fields
from recsys.config import Field, configuration
from recsys.errors import UserError


@configuration
class Inner:
    rate: float = 0.1


@configuration
class Outer:
    one: Inner | None = None
    many: dict[str, Inner] = Field(default_factory=dict)
    path: str | None = None


@pytest.mark.parametrize(
    ("text", "tp", "value"),
    [
        ("007", str, "007"),
        ("/data/run #3", str, "/data/run #3"),
        ("yes", str, "yes"),
        ("null", str, "null"),
        ("null", str | None, None),
        ("007", int, 7),
        ("1e3", float, 1000.0),
        ("1e3", int, "1e3"),
        ("yes", bool, True),
        ("7", bool, "7"),
        ("b", Literal["a", "b"], "b"),
        ("7", Annotated[int, "mark"], 7),
        ("[007, '1']", list[str], ["007", "1"]),
        ("[1, 2]", tuple[int, ...], [1, 2]),
        ("{rate: 1}", Inner, {"rate": 1}),
        ("{a.b: {rate: 2}}", dict[str, Inner], {"a.b": {"rate": 2}}),
    ],
)
def test_text_is_read_as_its_field_takes_it(text: str, tp: Any, value: Any) -> None:
    found = fields.read(text, fields.members(tp))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("text", "tp"), [("", int), (" ", str | None), ("[1", list[int]), ("{a: b: c}", Inner)])
def test_what_is_no_value_is_refused(text: str, tp: Any) -> None:
    with pytest.raises(UserError, match=r"nothing stands after the =|not valid YAML"):
        fields.read(text, fields.members(tp))


def test_dots_part_sections_but_not_the_names_that_are_there() -> None:
    given = {"many": {"a.b": {}}}
    assert fields.parts(Outer, "many.a.b.rate", given) == (["many", "a.b", "rate"], [float])
    assert fields.parts(Outer, "many.a.rate", given) == (["many", "a", "rate"], [float])
    assert fields.parts(Outer, "one.rate", None) == (["one", "rate"], [float])
    assert fields.parts(Outer, "one.speed", None) == (["one", "speed"], [])


def test_the_fields_of_a_section_are_known_wherever_it_stands() -> None:
    assert fields.names(Outer, ()) == ["many", "one", "path"]
    assert fields.names(Outer, ("one",)) == fields.names(Outer, ("many", "any")) == ["rate"]
