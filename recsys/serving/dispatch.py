"""Who answers a task: its arm, or another in place of one that does not."""

import asyncio
from collections.abc import Mapping, Sequence

from recsys.serving.arms import Model
from recsys.serving.assignment import Arm
from recsys.serving.metrics import Metrics
from recsys.serving.ranker import Away, Busy, Late
from recsys.serving.recommender import Recommendation
from recsys.serving.service import Failure, Service, Task

Answered = tuple[Task, Recommendation]
"""A task, which says by whom it was answered, and the answer."""


def explain(error: Busy | Away) -> Failure:
    """Why a model did not answer, in a word."""
    return "busy" if isinstance(error, Busy) else "timeout" if isinstance(error, Late) else "away"


class Dispatcher:
    """Hands tasks to the models of their arms.

    Args:
        models: of the arms that have one.
        fallback: answers in place of other arms, but for requests that name theirs: those want that arm or nothing.
        metrics: count what an arm did not answer.
    """

    def __init__(
        self,
        service: Service,
        models: Mapping[Arm, Model],
        fallback: Arm | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._service, self._models = service, models
        self._metrics = metrics or Metrics()
        self._fallback = fallback if fallback in models else None

    async def answer(self, tasks: Sequence[Task]) -> list[Answered]:
        """Answer tasks in their order, those of one arm in one pass of its model.

        Raises:
            Busy, Away: an arm does not answer, and nobody may in its place.
        """
        answers = {place: (task, now) for place, task in enumerate(tasks) if (now := self._service.without_model(task))}
        groups: dict[Arm, list[int]] = {}
        for place, task in enumerate(tasks):
            if place not in answers:
                groups.setdefault(task.arm, []).append(place)
        found = await asyncio.gather(
            *(self._rank(arm, [tasks[place] for place in places]) for arm, places in groups.items())
        )
        for places, answered in zip(groups.values(), found, strict=True):
            answers.update(zip(places, answered, strict=True))
        return [answers[place] for place in range(len(tasks))]

    async def _rank(self, arm: Arm, tasks: list[Task]) -> list[Answered]:
        try:
            ranked = await self._models[arm].rank_together(tasks)
        except (Busy, Away) as error:
            reason = explain(error)
            answered = await self._rank_in_place(arm, tasks, reason)
            self._metrics.count_failures(arm, reason, self._fallback if answered else None, len(tasks))
            if answered is None:
                raise  # what is wrong with the arm itself says more than what is wrong with the other one
            return answered
        return list(zip(tasks, ranked, strict=True))

    async def _rank_in_place(self, arm: Arm, tasks: list[Task], failed: Failure) -> list[Answered] | None:
        """What the fallback answers; None where it does not either, or may not."""
        other = self._fallback
        if other is None or other == arm or any(task.assigned_by == "request" for task in tasks):
            return None
        try:
            ranked = await self._models[other].rank_together(tasks)
        except (Busy, Away):
            return None
        return [(task.fall_back(other, failed), one) for task, one in zip(tasks, ranked, strict=True)]
