"""The state of the experiment: who gets which arm, and how much of the student's work another arm repeats unseen.

It starts as the settings say and can be changed while the application runs; `ray_jobs.serving.keeper` keeps one for
all replicas.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsys import storage
from recsys.errors import UserError
from recsys.secrets import mask
from recsys.serving.assignment import ARMS, Arm, check_split, position

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Salt = Annotated[str, Field(min_length=1, max_length=256)]


class Change(BaseModel):
    """What is to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    split: dict[Arm, Share] | None = Field(None, description="share of users an arm gets; they add up to 1")
    salt: Salt | None = Field(None, description="another salt assigns all users anew")
    shadow: Share | None = Field(
        None, description="share of the student's answers for which shadow_arm computes its own, unseen"
    )
    shadow_arm: Arm | None = Field(None, description="the arm that does")


class Experiment(BaseModel):
    """Which arms there are, and who gets them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: tuple[Arm, ...] = Field(description="those that are served")
    split: dict[Arm, Share] = Field(description="share of users an arm gets when a request names none")
    salt: Salt = Field(description="hashed with the user id")
    shadow: Share = Field(description="share of the student's answers for which shadow_arm computes its own, unseen")
    shadow_arm: Arm = Field("teacher", description="the arm that does")
    version: int = Field(1, ge=1, description="counts the changes; every answer and the log name it")
    changed: datetime = Field(
        default_factory=lambda: datetime.now(UTC), description="when; of version 1, when it was deployed"
    )

    def apply(self, change: Change) -> "Experiment":
        """The next version; the same one where nothing changes.

        Raises:
            UserError: the shares do not add up to 1, or an arm that would be needed is not served.
        """
        given = change.model_dump(exclude_none=True)
        if all(getattr(self, name) == value for name, value in given.items()):
            return self
        after = self.model_copy(update={**given, "version": self.version + 1, "changed": datetime.now(UTC)})
        try:
            check_experiment(after.arms, after.split, after.shadow, after.shadow_arm)
        except ValueError as error:
            raise UserError(str(error)) from None
        return after

    def is_shadowed(self, who: str) -> bool:
        """Whether `shadow_arm` repeats what the student answers to a user, or to a request without one.

        Who was chosen stays so when the share grows. The choice is independent of that of the arm.
        """
        return position(who, f"{self.salt}/shadow") < self.shadow


def check_experiment(
    arms: tuple[Arm, ...], split: Mapping[Arm, float], shadow: float, shadow_arm: Arm = "teacher"
) -> None:
    """Refuse a state that cannot be served.

    Raises:
        ValueError: one sentence.
    """
    check_split(split)
    served = ", ".join(arms)
    unserved = {arm for arm, share in split.items() if share > 0 or arm not in ARMS} - set(arms)
    if unserved:
        raise ValueError(f"split gives users to {min(unserved)}, which is not one of arms ({served})")
    if shadow_arm in ("student", "null") or shadow_arm not in {*ARMS, *arms}:
        others = [arm for arm in arms if arm not in ("student", "null")]
        raise ValueError(
            f"shadow_arm is {shadow_arm}, but an arm with a model beside the student's is to be compared with it; name "
            f"one that is served ({', '.join(others) or 'there is none'})"
        )
    if shadow and not {shadow_arm, "student"} <= set(arms):
        raise ValueError(f"shadow is {shadow:g}, which needs {shadow_arm} and student among arms ({served})")


def read_state(uri: str) -> Experiment:
    """The state that an application wrote when it was changed.

    Raises:
        UserError: it is damaged.
    """
    return _read(uri)[0]


def _read(uri: str) -> tuple[Experiment, Any]:
    """The state, and the settings that it was changed from."""
    try:
        stored = storage.read_json(uri)
        return Experiment.model_validate(stored["current"]), stored.get("configured")
    except (UserError, ValidationError, KeyError, TypeError):
        raise UserError(f"{mask(uri)} is damaged") from None


class State(Protocol):
    """Where a replica finds the state."""

    @property
    def current(self) -> Experiment:
        """As it is now."""

    async def change(self, change: Change) -> Experiment:
        """Change it for all replicas.

        Raises:
            UserError: see `Experiment.apply`.
            Away: it cannot be changed now.
        """


class Kept:
    """The state in this process, and in a file where it is to outlive the process.

    What the file says counts as long as the settings are those that it was changed from; other settings begin anew.

    Args:
        configured: what the settings say.
        uri: of the file; it is written when the state changes.
        report: takes one line about what was found there.
    """

    def __init__(self, configured: Experiment, uri: str | None = None, report: Callable[[str], None] = print) -> None:
        self._configured, self._uri = configured, uri
        self.current = self._start(report)

    async def change(self, change: Change) -> Experiment:
        """See `State`."""
        after = self.current.apply(change)
        if after is not self.current:
            self._write(after)
            self.current = after
        return after

    def _start(self, report: Callable[[str], None]) -> Experiment:
        if self._uri is None or not storage.exists(self._uri):
            return self._configured
        try:
            before, settings = _read(self._uri)
        except UserError as error:
            report(f"experiment: {error}; the settings count")
            return self._configured
        if settings == self._settings():
            return before
        report(f"experiment: the settings have changed; they count, not version {before.version} of {mask(self._uri)}")
        after = self._configured.model_copy(update={"version": before.version + 1})
        self._write(after)
        return after

    def _settings(self) -> dict[str, Any]:
        # Without defaults: what was written before a setting came is still of the same settings.
        return self._configured.model_dump(mode="json", exclude={"version", "changed"}, exclude_defaults=True)

    def _write(self, experiment: Experiment) -> None:
        if self._uri is not None:
            storage.write_json(
                self._uri, {"configured": self._settings(), "current": experiment.model_dump(mode="json")}
            )
