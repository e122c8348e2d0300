"""One state of the experiment for all replicas of the ingress: an actor holds it, every replica asks for it.

The actor is a deployment of its own, so that Ray Serve starts it again where it is lost and ends it with the
application. It reads the file of the state when it starts.
"""

import asyncio
import threading
import time
import weakref
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from recsys.serving.experiment import Change, Experiment, Kept
from recsys.serving.ranker import Away
from recsys.settings import Settings

POLL_SECONDS = 0.5
ASK_SECONDS = 5.0
FIRST_SECONDS = 30.0
"""How long a replica that starts waits for the state before it begins with what the settings say."""


class Keeper:
    """The actor."""

    def __init__(self, settings: Settings) -> None:
        self._kept = Kept(settings.serving.experiment, settings.layout.experiment)

    async def current(self) -> Experiment:
        return self._kept.current

    async def change(self, change: Change) -> Experiment:
        return await self._kept.change(change)


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
