"""What can be the name of a folder, a file, an object and a run at once."""

import pytest

from recsys.names import check_name, check_name_or_alias


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
