"""One state of the experiment for all replicas of the ingress: an actor that every one of them asks for it.

It is a deployment of its own, so that Ray Serve starts it again where it is lost, and ends it with the application. Its
process is small: nothing here imports PyTorch.
"""

from recsys.serving.experiment import Change, Experiment, Kept


class Keeper:
    """The actor; see `Kept`."""

    def __init__(self, configured: Experiment, uri: str) -> None:
        self._kept = Kept(configured, uri)

    async def current(self) -> Experiment:
        return self._kept.current

    async def change(self, change: Change) -> Experiment:
        return await self._kept.change(change)
