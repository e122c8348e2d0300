"""The processes behind `ray_jobs.serve`: HTTP ingress with student and null arm, and the teacher's replicas.

Apart from it, so that replicas import these classes by name whether the job or `serve deploy` started them.
"""

import asyncio
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.data.prepared import PreparedDataset
from recsys.errors import UserError
from recsys.serving.assignment import Arm
from recsys.serving.ranker import Ask, Ranked, Ranker
from recsys.serving.recommender import Recommender
from recsys.serving.service import (
    MAX_BODY,
    RecommendRequest,
    RecommendResponse,
    Service,
    check_same_dataset,
    dataset_identity,
    sentence,
)
from recsys.settings import Settings


class LimitedBody:
    """ASGI middleware: a body longer than `MAX_BODY` is refused before it is read whole."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY:
                # The one exception that FastAPI lets through while it reads a body.
                raise HTTPException(422, f"the body is longer than {MAX_BODY} bytes; shorten the history")
            return message

        await self.app(scope, counted, send)


api = FastAPI(title="recsys-distill", description="Teacher and student recommenders side by side.")
api.add_middleware(LimitedBody)


@api.exception_handler(UserError)
async def _refuse(_: Request, error: UserError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


@api.exception_handler(RequestValidationError)
async def _refuse_form(_: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse({"detail": sentence(error.errors())}, status_code=422)


@api.exception_handler(RayError)
async def _unavailable(_: Request, error: RayError) -> JSONResponse:
    return JSONResponse({"detail": f"the arm does not answer ({type(error).__name__}); try again"}, status_code=503)


def load_ranker(settings: Settings, arm: Arm, dataset: tuple[str, str]) -> Ranker:
    """The model of an arm, on as many threads as its replica asks for, warmed up.

    Args:
        dataset: name and fingerprint of the dataset that is served.

    Raises:
        UserError: the checkpoint is missing or damaged, or was trained on another dataset.
    """
    layout, config = settings.layout, settings.serving
    checkpoint, replicas = {
        "teacher": (layout.teacher, config.teacher_replicas),
        "student": (layout.student(config.student), config.student_replicas),
    }[arm]
    torch.set_num_threads(max(1, int(replicas.cpus)))
    recommender = Recommender.load(checkpoint, "cuda" if replicas.gpus else "cpu")
    check_same_dataset(*dataset, {arm: recommender.checkpoint.info})
    ranker = Ranker(recommender, replicas.batch)
    for _ in range(3):  # libraries set up much of themselves during the first passes
        ranker.rank_now([Ask([recommender.catalogue.item_ids[1]], 1, True)])
    return ranker


def facts(ranker: Ranker) -> dict[str, Any]:
    """What `/health` says of an arm."""
    loaded = ranker.recommender.checkpoint
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    return {"checkpoint": loaded.hash, "kind": loaded.info["kind"], "parameters": parameters}


class Teacher:
    """A replica of the teacher."""

    def __init__(self, settings: Settings) -> None:
        self._ranker = load_ranker(settings, "teacher", dataset_identity(settings.layout.dataset))

    async def rank(self, ask: Ask) -> Ranked:
        return await self._ranker.rank(ask)

    async def facts(self) -> dict[str, Any]:
        return facts(self._ranker)


@serve.ingress(api)
class Ingress:
    """A replica that takes HTTP requests and holds catalogue, stored histories and the student."""

    def __init__(self, settings: Settings, teacher: DeploymentHandle | None) -> None:
        config = settings.serving
        dataset = PreparedDataset.load(settings.layout.dataset)
        self._service = Service(
            dataset,
            arms=config.arms,
            split=config.split,
            salt=config.salt,
            default_arm=config.default_arm,
            max_k=config.max_k,
            max_history=config.max_history,
        )
        self._teacher = teacher
        self._student = None
        if "student" in config.arms:
            self._student = load_ranker(settings, "student", (dataset.name, dataset.fingerprint))
        self._split = dict(config.split)

    @api.post("/recommend", responses={422: {"description": "one sentence in `detail`"}})
    async def recommend(self, request: RecommendRequest) -> RecommendResponse:
        """The k best items for a user, a history, or both."""
        task = self._service.task(request)
        if task.arm == "null" or not task.history:
            return self._service.popular(task)
        ask = Ask(task.history, task.k, task.mask_seen)
        if task.arm == "student":
            assert self._student is not None
            ranked = await self._student.rank(ask)
        else:
            assert self._teacher is not None
            ranked = await self._teacher.rank.remote(ask)
        return self._service.ranked(task, ranked)

    @api.get("/health")
    async def health(self) -> dict[str, Any]:
        """Arms with their checkpoints, the dataset and the split; 503 while an arm does not answer."""
        arms: dict[str, Any] = {}
        for arm in self._service.arms:
            if arm == "student" and self._student is not None:
                arms[arm] = facts(self._student)
            elif arm == "teacher" and self._teacher is not None:
                try:
                    arms[arm] = await asyncio.wait_for(self._teacher.facts.remote(), 5)
                except TimeoutError:
                    raise HTTPException(503, "the teacher does not answer") from None
            else:
                arms[arm] = {}
        dataset = self._service.dataset
        return {
            "status": "ok",
            "arms": arms,
            "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
            "split": self._split,
        }
