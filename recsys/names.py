"""Names that become folders, files and runs: of projects, students, sweeps and arms."""

import re
from typing import Annotated

from pydantic import AfterValidator

from recsys.errors import UserError

# What lies beside the students' results, and the folder of the recorded runs that lies beside the projects.
RESERVED_FOR_STUDENTS = (
    "recent-popularity", "co-occurrence", "sequential-rules", "sequential-rules-titles", "teacher", "ladder", "ab",
)  # fmt: skip
RESERVED_FOR_PROJECTS = ("mlflow",)
# What the metrics call a request that got no arm, and a batch that got several; and no fallback.
RESERVED_FOR_ARMS = ("none", "several")
_FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_EXPORT = "export:"
_REGISTERED = re.compile(rf"models:/({_FORM.pattern})(?:@({_FORM.pattern})|/([0-9]{{1,9}}))")


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


def read_registered(model: str) -> tuple[str, str | None, int | None] | None:
    """Name, alias and number of `models:/NAME@ALIAS` or `models:/NAME/NUMBER` (one of the two is None), as MLflow
    writes a version of a registered model; None where it is none."""
    found = _REGISTERED.fullmatch(model)
    if found is None:
        return None
    name, alias, number = found.groups()
    return name, alias, None if number is None else int(number)


def read_exported(model: str) -> str | None:
    """NAME of `export:NAME`, the export of a model; None where it is none."""
    return model.removeprefix(_EXPORT) if model.startswith(_EXPORT) else None


def check_model(model: str) -> str:
    """The text itself: a name, `@` and an alias, a version of a registered model (`read_registered`), or an export
    (`read_exported`).

    Raises:
        ValueError: it is none of them.
    """
    if model.startswith("models:") and read_registered(model) is None:
        raise ValueError(f"{model[:120]!r} names no version; write models:/NAME@ALIAS or models:/NAME/NUMBER")
    if (exported := read_exported(model)) is not None:
        check_name(exported)
        return model
    return model if model.startswith("models:") else check_name_or_alias(model)


Name = Annotated[str, AfterValidator(check_name)]
NameOrAlias = Annotated[str, AfterValidator(check_name_or_alias)]
ModelName = Annotated[str, AfterValidator(check_model)]
"""A name, an alias, a version of a registered model, or an export."""
