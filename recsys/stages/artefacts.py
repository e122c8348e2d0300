"""What stages ask of each other's artefacts, and of each other while they make them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from recsys import locks, storage, tracking
from recsys.errors import UserError
from recsys.manifest import Manifest
from recsys.settings import Layout, Settings

P = ParamSpec("P")
T = TypeVar("T")

_hashes = ContextVar("hashes", default=False)


@contextmanager
def verify_hashes(hashes: bool) -> Iterator[None]:
    """In the block, `is_current` reads all files of an artefact where asked to."""
    token = _hashes.set(hashes)
    try:
        yield
    finally:
        _hashes.reset(token)


def is_current(uri: str, key: str) -> bool:
    """Whether a whole artefact made from the same configuration and inputs is already there: its files are as long as
    the manifest says and, within `verify_hashes`, have the hashes it says. One that is damaged is told."""
    wrong = storage.state(uri, key, hashes=_hashes.get())
    if wrong:
        print(f"{uri} is damaged: {wrong}; making it again", flush=True)
    return wrong == ""


def alone(where: Callable[..., tuple[str, str]]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that of all processes that share the storage one at a time runs it.

    Args:
        where: from its arguments, the URI of what it makes and what a person calls that.
    """

    def decorate(make: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(make)
        def run_alone(*args: P.args, **kwargs: P.kwargs) -> T:
            with locks.hold(*where(*args, **kwargs)):
                return make(*args, **kwargs)

        return run_alone

    return decorate


def require(uri: str, what: str, job: str) -> Manifest:
    """The manifest of an input.

    Raises:
        UserError: it is not there yet.
    """
    manifest = storage.read_manifest(uri)
    if manifest is None:
        raise UserError(f"there is no {what} in {uri}; run {job} first")
    return manifest


def require_alone(settings: Settings, name: str, field: str) -> None:
    """Refuse a student that cannot be there before the teacher.

    Args:
        field: of the configuration, that names it.

    Raises:
        UserError: there is no such student, or it would in turn learn from the teacher.
    """
    if name not in settings.students:
        known = ", ".join(settings.students) or "none"
        raise UserError(f"{field} names student {name!r}, but the configuration has: {known}")
    if settings.students[name].needs_teacher:
        raise UserError(f"{field}: student {name!r} learns from the teacher itself; name one that is trained alone")


def fingerprint(layout: Layout) -> str:
    """Fingerprint of the prepared dataset, from its manifest alone.

    Raises:
        UserError: it is not there yet.
    """
    return str(require(layout.dataset, "prepared dataset", "prepare_data").attributes["fingerprint"])


def start_run(settings: Settings, step: str, **options: Any) -> AbstractContextManager[tracking.Run]:
    """`tracking.start_run` of a step of a project."""
    return tracking.start_run(settings.tracking, settings.layout.mlflow, settings.name, step, **options)
