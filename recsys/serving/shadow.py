"""What another arm would have answered: computed beside a share of the student's answers, compared, never shown."""

import asyncio
from collections.abc import Mapping, Sequence

from recsys.data.ids import normal_id
from recsys.serving.arms import Model
from recsys.serving.assignment import Arm
from recsys.serving.dispatch import explain
from recsys.serving.events import EventLog
from recsys.serving.experiment import State
from recsys.serving.metrics import Metrics
from recsys.serving.ranker import Away, Busy
from recsys.serving.recommender import Recommendation
from recsys.serving.service import Task


def agree(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Agreement@k: the share of items that two lists have in common, whatever their order.

    k is the length of the longer list: a selection may leave fewer items than were asked for, to both alike.
    """
    return len(set(ours) & set(theirs)) / max(len(ours), len(theirs), 1)


class Shadow:
    """Has another arm repeat what the student answered, in the background.

    Args:
        models: of the arms that have one.
        state: says which arm repeats, and for whom; requests without a user are chosen by their own id.
        at_once: computations at the same time; further ones are dropped and counted, so that neither answers nor the
            other arm's own requests wait for them.
        log: takes the unseen list; None keeps none.
    """

    def __init__(
        self,
        models: Mapping[Arm, Model],
        state: State,
        *,
        at_once: int,
        metrics: Metrics,
        log: EventLog | None = None,
    ) -> None:
        self._models, self._state, self._at_once = models, state, at_once
        self._metrics, self._log = metrics, log
        self._running: set[asyncio.Task[None]] = set()  # the event loop itself would let go of them

    def consider(self, task: Task, answer: Recommendation) -> None:
        """Begin where the student's model answered who is chosen, and where there is room; returns at once."""
        who = task.request_id if task.user_id is None else normal_id(task.user_id)
        state = self._state.current
        if task.arm != "student" or answer.checkpoint is None or not state.is_shadowed(who):
            return
        if len(self._running) >= self._at_once:
            self._metrics.count_shadow("dropped")
            return
        running = asyncio.create_task(self._compare(task, answer, state.shadow_arm))
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _compare(self, task: Task, answer: Recommendation, arm: Arm) -> None:
        try:
            shadow = await self._models[arm].rank(task)
        except (Busy, Away) as error:
            self._metrics.count_shadow(explain(error))
            return
        except Exception as error:  # nobody waits for it
            self._metrics.count_shadow("error")
            print(f"shadow: {type(error).__name__}: {error}", flush=True)
            return
        agreement = agree(answer.items, shadow.items)
        self._metrics.count_agreement(agreement, {task.answered_by: answer, arm: shadow})
        if self._log is not None:
            self._log.append(
                "shadow",
                request_id=task.request_id,
                user_id=task.user_id,
                arm=task.arm,
                assigned_by=task.assigned_by,
                experiment=task.experiment,
                answered_by=arm,
                checkpoint=shadow.checkpoint,
                items=shadow.items,
                model_ms=round(shadow.milliseconds, 4),
                queue_ms=round(shadow.waited, 4),
                agreement=agreement,
            )
