"""What can be the name of a folder, a file, an object and a run at once."""

import pytest

from recsys.names import check_model, check_name, check_name_or_alias, read_exported, read_registered


@pytest.mark.parametrize("name", ["a", "0", "SASRec-64.v2_b", "x" * 100])
def test_a_name_is_given_back(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a\n", "é", "x" * 101])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        check_name(name)


def test_an_alias_is_a_name_behind_an_at_sign() -> None:
    assert [check_name_or_alias(name) for name in ("@champion", "a")] == ["@champion", "a"]
    for name in ("@", "@@a", "a@b", "@a b"):
        with pytest.raises(ValueError, match="cannot be a name"):
            check_name_or_alias(name)


def test_a_model_is_a_name_an_alias_or_a_registered_version() -> None:
    known = {"models:/demo@champion": ("demo", "champion", None), "models:/a-b.c/12": ("a-b.c", None, 12)}
    for text, parts in known.items():
        assert check_model(text) == text and read_registered(text) == parts
    for text in ("sasrec", "@champion"):
        assert check_model(text) == text and read_registered(text) is None
    assert check_model("export:sasrec") == "export:sasrec" and read_exported("export:sasrec") == "sasrec"
    assert read_exported("sasrec") is None and read_registered("export:sasrec") is None
    with pytest.raises(ValueError, match="cannot be a name"):
        check_model("export:../other")
    for text in (
        "models:/demo",
        "models:/demo/",
        "models:/demo/latest",
        "models:/a/b@c",
        "models:demo@c",
        "models://d/1",
    ):
        with pytest.raises(ValueError, match=r"names no version; write models:/NAME@ALIAS or models:/NAME/NUMBER"):
            check_model(text)
    with pytest.raises(ValueError, match="cannot be a name"):
        check_model("../other")
