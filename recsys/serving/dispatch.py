"""Who answers a task: its arm, or the student where the teacher does not."""

import asyncio
from collections.abc import Mapping, Sequence

from recsys.serving.arms import Model
from recsys.serving.assignment import Arm
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
        fallback: answers in place of the teacher, but for requests that name it: those want the teacher or nothing.
    """

    def __init__(self, service: Service, models: Mapping[Arm, Model], fallback: Arm | None = None) -> None:
        self._service, self._models = service, models
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
            if arm != "teacher" or self._fallback is None or any(task.assigned_by == "request" for task in tasks):
                raise
            tasks = [task.fall_back(self._fallback, explain(error)) for task in tasks]
            try:
                ranked = await self._models[self._fallback].rank_together(tasks)
            except (Busy, Away):
                raise error from None  # what is wrong with the arm itself says more
        return list(zip(tasks, ranked, strict=True))
