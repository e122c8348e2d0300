"""From intervals to a word: ship, do not ship, keep measuring, invalid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from recsys.experiment.balance import LEAST_P
from recsys.experiment.intervals import Interval

Word = Literal["ship", "do not ship", "keep measuring", "invalid"]
State = Literal["holds", "broken", "open"]


@dataclass(frozen=True)
class Guardrail:
    """A loss that is accepted, and what is known of it.

    Attributes:
        name: what is compared.
        loss: how much worse the treatment is, above zero where it is worse.
        margin: the largest loss that is accepted.
    """

    name: str
    loss: Interval
    margin: float

    @property
    def state(self) -> State:
        """`holds` where even the upper bound is within the margin, `broken` where even the lower one is beyond."""
        return "holds" if self.loss.high < self.margin else "broken" if self.loss.low > self.margin else "open"


@dataclass(frozen=True)
class Verdict:
    word: Word
    reason: str


def decide(guardrails: Sequence[Guardrail], p: float) -> Verdict:
    """The verdict, of non-inferiority.

    With intervals that hold at all looks with probability 1 − α, a treatment that is beyond a margin is shipped with
    probability α/2 at most, however many guardrails there are, for all of them must hold. One that is within all
    margins is refused with probability α/2 for each guardrail at most.

    Args:
        p: of the users of the arms (`recsys.experiment.balance`).
    """
    if p < LEAST_P:
        return Verdict("invalid", f"the arms do not have the users that the split gives them (p = {p:.2g})")
    named = {state: [rail.name for rail in guardrails if rail.state == state] for state in ("broken", "open")}
    if named["broken"]:
        return Verdict("do not ship", f"worse by more than the margin: {', '.join(named['broken'])}")
    if named["open"] or not guardrails:
        return Verdict("keep measuring", f"not yet known: {', '.join(named['open']) or 'anything'}")
    return Verdict("ship", f"no worse than the margins allow: {', '.join(rail.name for rail in guardrails)}")
