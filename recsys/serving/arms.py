"""What an arm with a model is to the application, wherever its model runs."""

from collections.abc import Sequence
from typing import Any, Protocol

from recsys.serving.ranker import Ask, Away
from recsys.serving.recommender import Recommendation


class Model(Protocol):
    """The model of an arm."""

    async def rank(self, ask: Ask) -> Recommendation:
        """Answer a request.

        Raises:
            Busy: too many wait already.
            Away: it cannot answer now, or (`Late`) not in time.
        """

    async def rank_together(self, asks: Sequence[Ask]) -> list[Recommendation]:
        """Answer several requests in one pass; it raises as `rank` does."""

    async def facts(self) -> dict[str, Any]:
        """What `/health` says of it: its checkpoint (hash), kind and parameters; it raises as `rank` does."""


class Absent:
    """The model of an arm that cannot answer as long as this process lives, and says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def rank(self, _: Ask) -> Recommendation:
        raise Away(self._reason)

    async def rank_together(self, _: Sequence[Ask]) -> list[Recommendation]:
        raise Away(self._reason)

    async def facts(self) -> dict[str, Any]:
        raise Away(self._reason)
