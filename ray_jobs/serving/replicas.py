"""The processes behind `ray_jobs.serve`: the HTTP ingress with the arms that live in it, and replicas of the others.

Apart from it, so that replicas import these classes by name whether the job or `serve deploy` started them.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from ray_jobs.serving.experiment import Followed
from recsys import storage
from recsys.data.prepared import Catalogue, PreparedDataset
from recsys.errors import UserError
from recsys.names import read_exported
from recsys.serving import new_items
from recsys.serving.arms import Absent, Model
from recsys.serving.assignment import Arm
from recsys.serving.events import EventLog
from recsys.serving.exported import load_exported
from recsys.serving.metrics import Metrics
from recsys.serving.ranker import WAITING, Ask, Away, Busy, Late, Ranker
from recsys.serving.recommender import Recommendation, Recommender
from recsys.serving.service import Pinned, Service, check_same_dataset, dataset_identity
from recsys.serving.web import TOKEN_VARIABLE, create_app
from recsys.settings import Settings

Response = DeploymentResponse[Any] | DeploymentResponseGenerator[Any]
HEALTH_SECONDS = 5.0
METRICS_SECONDS = 2.0


class Replaced(UserError):
    """The checkpoint is another than the one that was deployed."""


def load_ranker(settings: Settings, arm: Arm, pinned: Pinned) -> Ranker:
    """The model of an arm, on as many threads as its replica asks for, warmed up.

    Raises:
        Replaced: the checkpoint is another than the one that was deployed.
        UserError: it is missing or damaged, or was trained on another dataset; the dataset is another by now.
    """
    check_deployed(pinned, dataset_identity(settings.layout.dataset)[1])
    config = settings.serving.models[arm]
    replicas = config.replicas
    torch.set_num_threads(max(1, int(replicas.cpus)))
    device = "cuda" if replicas.gpus else "cpu"
    theirs = PreparedDataset.load_catalogue(settings.layout.dataset)
    if read_exported(config.model) is not None:
        recommender = Recommender(load_exported(pinned.uris[arm], theirs), config.scoring)
    else:
        recommender = Recommender.load(pinned.uris[arm], device, scoring=config.scoring)
    if problem := pinned.describe_change(arm, recommender.checkpoint.hash):
        raise Replaced(problem)
    check_same_dataset(*pinned.dataset, {arm: recommender.checkpoint.info})
    # The checkpoint may be older than the attributes of its items, or know items that came later.
    ours = recommender.catalogue
    recommender.catalogue = replace(ours, attributes=theirs.attributes.extend(len(ours) - len(theirs)))
    recommender.catalogue.attributes.warm()
    # Ray Serve keeps the queue of what has replicas of its own, and counts a batch as one.
    ranker = Ranker(recommender, replicas.batch, config.queue if config.in_ingress else WAITING)
    for _ in range(3):  # libraries set up much of themselves during the first passes
        ranker.rank_now([Ask([recommender.catalogue.item_ids[1]], 1, True)])
    return ranker


class ArmReplica:
    """A replica of one arm; it does not start from another checkpoint than the one that was deployed."""

    def __init__(self, settings: Settings, arm: Arm, pinned: Pinned) -> None:
        self._ranker = load_ranker(settings, arm, pinned)

    async def rank(self, ask: Ask) -> Recommendation:
        return await self._ranker.rank(ask)

    async def rank_together(self, asks: Sequence[Ask]) -> list[Recommendation]:
        return await self._ranker.rank_together(asks)

    async def facts(self) -> dict[str, Any]:
        return await self._ranker.facts()


class Remote:
    """An arm with replicas of its own as the ingress sees it: what Ray says becomes what the application says.

    Args:
        seconds: how long a request may wait for it, its turn included.
    """

    def __init__(self, arm: Arm, handle: DeploymentHandle[Any], pinned: Pinned, seconds: float) -> None:
        self._arm, self._handle, self._pinned = arm, handle, pinned
        self._seconds = seconds

    async def rank(self, ask: Ask) -> Recommendation:
        return await self._within(self._seconds, self._handle.rank.remote(ask))

    async def rank_together(self, asks: Sequence[Ask]) -> list[Recommendation]:
        return await self._within(self._seconds, self._handle.rank_together.remote(asks))

    async def facts(self) -> dict[str, Any]:
        try:
            return await self._within(HEALTH_SECONDS, self._handle.facts.remote())
        except Away as error:
            # A replica that refused to start cannot say so itself.
            raise Away(await asyncio.to_thread(self._describe_change) or str(error)) from None

    async def _within(self, seconds: float, answer: Response) -> Any:
        try:
            return await asyncio.wait_for(answer, seconds)
        except BackPressureError:
            raise Busy(f"as many requests wait for the {self._arm} as may") from None
        except TimeoutError:
            answer.cancel()  # what nobody waits for is not computed
            raise Late(f"the {self._arm} did not answer within {seconds:g} s; try again") from None
        except (RayError, DeploymentUnavailableError) as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            if isinstance(cause, (UserError, Busy)):  # as a model in this process says it
                raise type(cause)(str(cause)) from None
            raise Away(f"the {self._arm} does not answer ({type(error).__name__}); try again") from None

    def _describe_change(self) -> str | None:
        try:
            manifest = storage.read_manifest(self._pinned.uris[self._arm])
        except Exception:
            return None  # the storage does not answer; what was seen of the arm is said
        return self._pinned.describe_change(self._arm, manifest.content_hash if manifest else None)


def load_dataset(settings: Settings, pinned: Pinned) -> PreparedDataset:
    """The dataset that was deployed.

    Raises:
        UserError: it is gone, or another by now.
    """
    dataset = PreparedDataset.load(settings.layout.dataset)
    check_deployed(pinned, dataset.fingerprint)
    return dataset


def check_deployed(pinned: Pinned, fingerprint: str) -> None:
    """Refuse another dataset than the one that was deployed.

    Raises:
        UserError: it is another.
    """
    deployed = pinned.dataset[1]
    if fingerprint != deployed:
        raise UserError(f"dataset {deployed[:12]} was deployed, which is {fingerprint[:12]} now; deploy again")


def read_further_items(pinned: Pinned, catalogue: Catalogue) -> dict[str, str]:
    """The items (id → title) that the arms' checkpoints know besides those of the dataset. Of an id that several know,
    the first arm's title counts; arms whose checkpoint is another than the one that was deployed are passed over.

    Raises:
        UserError: a checkpoint is damaged.
    """
    found: dict[str, str] = {}
    for arm, uri in pinned.uris.items():
        manifest = storage.read_manifest(uri)
        if manifest is not None and manifest.content_hash == pinned.checkpoints[arm]:
            found = new_items.read_further_items(uri, catalogue) | found
    return found


def models(settings: Settings, pinned: Pinned, handles: Mapping[Arm, DeploymentHandle[Any]]) -> dict[Arm, Model]:
    """The models of all arms as the ingress has them.

    Args:
        handles: of the arms with replicas of their own.
    """
    found: dict[Arm, Model] = {}
    for arm, config in settings.serving.models.items():
        if not config.in_ingress:
            found[arm] = Remote(arm, handles[arm], pinned, config.seconds)
            continue
        try:
            found[arm] = load_ranker(settings, arm, pinned)
        except Replaced as error:  # the other arms are served all the same
            found[arm] = Absent(str(error))
    return found


@serve.ingress()
class Ingress:
    """A replica that takes HTTP requests and holds catalogue, stored histories and the models that live in it."""

    def __init__(
        self,
        settings: Settings,
        pinned: Pinned,
        keeper: DeploymentHandle[Any],
        handles: Mapping[Arm, DeploymentHandle[Any]],
    ) -> None:
        config = self._config = settings.serving
        dataset = load_dataset(settings, pinned)
        self._service = Service(
            dataset,
            arms=config.served,
            experiment=Followed(keeper, config.experiment),
            default_arm=config.default_arm,
            max_k=config.max_k,
            max_history=config.max_history,
            max_ids=config.max_ids,
            max_requests=config.max_requests,
            further_items=read_further_items(pinned, dataset.catalogue),
        )
        self._settings, self._pinned = settings, pinned
        self._models = models(settings, pinned, handles)
        self._metrics = Metrics(serve.get_replica_context().replica_id.unique_id)
        self._log = None
        if config.log:
            self._log = EventLog(settings.layout.events, max_bytes=config.log_megabytes << 20)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(
            self._service,
            self._models,
            checkpoints=self._pinned.checkpoints,
            metrics=self._metrics,
            gather=self._gather_metrics,
            log=self._log,
            report=None if self._log is None else self._report,
            fallback=None if self._config.fallback == "none" else self._config.fallback,
            shadow_at_once=self._config.shadow_at_once,
            token=os.environ.get(TOKEN_VARIABLE, "").strip() or None,
        )

    def metrics_text(self) -> str:
        return self._metrics.text()

    def _report(self) -> dict[str, Any]:
        from recsys.stages import experiment  # statistics and plots, which nobody may ask for

        return experiment.analyse_log(self._settings)

    async def _gather_metrics(self) -> Sequence[str]:
        """The metrics of all replicas of the ingress; its own alone where the others do not answer."""
        try:
            context = serve.get_replica_context()
            handle = serve.get_deployment_handle(context.deployment, context.app_name)
            return await asyncio.wait_for(handle.broadcast("metrics_text").results_async(), METRICS_SECONDS)
        except (RayError, TimeoutError):
            return [self.metrics_text()]

    def __del__(self) -> None:
        if (log := getattr(self, "_log", None)) is not None:
            log.close()
