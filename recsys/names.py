"""Names that become folders, files and runs: of projects, students and sweeps."""

import re
from typing import Annotated

from pydantic import AfterValidator

from recsys.errors import UserError

# What lies beside the students' results, and the folder of the recorded runs that lies beside the projects.
RESERVED_FOR_STUDENTS = (
    "recent-popularity", "co-occurrence", "sequential-rules", "sequential-rules-titles", "teacher", "ladder", "ab",
)  # fmt: skip
RESERVED_FOR_PROJECTS = ("mlflow",)
_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: a file system, an object store, Ray or MLflow would not take it for one name of one thing.
    """
    if not _FORM.fullmatch(name):
        raise ValueError(
            f"{name[:120]!r} cannot be a name, for it becomes a folder; use a to z, A to Z, 0 to 9, '.', '_' and '-', "
            "the first a letter or digit, at most 100 in all"
        )
    return name


def require_name(name: str, what: str) -> str:
    """The name itself.

    Raises:
        UserError: it is none, in the words of `what` it is.
    """
    try:
        return check_name(name)
    except ValueError as error:
        raise UserError(f"{what} {error}") from None


def check_name_or_alias(name: str) -> str:
    """The name itself, or `@` and a name.

    Raises:
        ValueError: see `check_name`.
    """
    check_name(name.removeprefix("@"))
    return name


Name = Annotated[str, AfterValidator(check_name)]
NameOrAlias = Annotated[str, AfterValidator(check_name_or_alias)]
