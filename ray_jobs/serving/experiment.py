"""The state of the experiment as a replica of the ingress follows it (`ray_jobs.serving.keeper` keeps it)."""

import asyncio
import threading
import time
import weakref
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from recsys.serving.experiment import Change, Experiment
from recsys.serving.ranker import Away

POLL_SECONDS = 0.5
ASK_SECONDS = 5.0
FIRST_SECONDS = 30.0
"""How long a replica that starts waits for the state before it begins with what the settings say."""


class Followed:
    """The state as a replica of the ingress sees it, at most a second old. Where the actor is away, the last one stays.

    Args:
        configured: what the settings say.
    """

    def __init__(self, keeper: DeploymentHandle[Any], configured: Experiment) -> None:
        self.current = configured
        self._keeper = keeper
        heard = threading.Event()
        threading.Thread(target=_follow, args=(weakref.ref(self), heard), name="experiment", daemon=True).start()
        if not heard.wait(FIRST_SECONDS):
            print("experiment: its state is not there yet; the settings count", flush=True)

    def ask(self) -> None:
        """Take over what the actor says, where it answers."""
        try:
            self.current = self._keeper.current.remote().result(timeout_s=ASK_SECONDS)
        except (RayError, RayServeException, TimeoutError):
            return

    async def change(self, change: Change) -> Experiment:
        """See `recsys.serving.experiment.State`."""
        self.current.apply(change)  # a mistake is told here, as one sentence
        answer = self._keeper.change.remote(change)
        try:
            self.current = await asyncio.wait_for(answer, ASK_SECONDS)
        except (RayError, RayServeException, TimeoutError) as error:
            answer.cancel()
            raise Away(f"the experiment cannot be changed now ({type(error).__name__}); try again") from None
        return self.current


def _follow(state: weakref.ref[Followed], heard: threading.Event) -> None:
    while (followed := state()) is not None:
        followed.ask()
        heard.set()
        del followed
        time.sleep(POLL_SECONDS)
