"""The HTTP application: recommendations, items, feedback, health, metrics, and a schema that says what they do."""

import asyncio
import reprlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from recsys.errors import UserError
from recsys.serving.arms import Model
from recsys.serving.assignment import Arm
from recsys.serving.dispatch import Dispatcher
from recsys.serving.events import EventLog
from recsys.serving.experiment import Change, Experiment
from recsys.serving.guard import BODY_SECONDS, Guard
from recsys.serving.metrics import ARM, CONTENT_TYPE, Counted, Metrics, merge
from recsys.serving.page import page
from recsys.serving.ranker import RETRY_SECONDS, Away, Busy
from recsys.serving.recommender import Recommendation
from recsys.serving.service import (
    BatchRequest,
    BatchResponse,
    Id,
    Item,
    ItemList,
    RecommendRequest,
    RecommendResponse,
    Service,
    Task,
    sentence,
)
from recsys.serving.shadow import Shadow
from recsys.serving.start import read_start_page, respond_with

State = Literal["ready", "busy", "away"]
RequestId = Annotated[
    str | None,
    Header(
        alias="X-Request-ID",
        min_length=1,
        max_length=128,
        pattern="^[!-~]+$",
        description="what feedback and the log call this request; made where it is not given",
    ),
]
SEVERAL = "several"
"""The arm of a batch whose requests got different ones, in the metrics."""
TOKEN_VARIABLE = "RECSYS_EXPERIMENT_TOKEN"
"""The environment variable of the token that `PUT /experiment` asks for; it stands nowhere else."""
Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description=f"the token of {TOKEN_VARIABLE}")),
]
REPORT_SECONDS = 60.0
"""How old a report of the experiment may be."""
TASKS = "recsys.tasks"
"""Where an ASGI scope holds what was asked, for the log of what got no answer."""


class Problem(BaseModel):
    detail: str = Field(description="one sentence: what is wrong and what to do")


class Feedback(BaseModel):
    """What came of a recommendation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: Annotated[str, Field(min_length=1, max_length=160)] = Field(description="of the answer")
    item_id: Id = Field(description="the item that it is about")
    event: Annotated[str, Field(min_length=1, max_length=64)] = Field("click", description="such as click or purchase")


class Recorded(BaseModel):
    recorded: Literal[True] = Field(True, description="it is in the log within a second")


class ArmHealth(BaseModel):
    state: State = Field(description="`busy` answers, but has no room now; `away` cannot answer")
    reason: str | None = Field(None, description="why it is away")
    checkpoint: str | None = Field(None, description="hash of the checkpoint that was deployed; null without a model")
    kind: str | None = None
    parameters: int | None = None


class DatasetHealth(BaseModel):
    name: str
    fingerprint: str


class Health(BaseModel):
    status: Literal["ok", "degraded", "unavailable"] = Field(
        description="every arm can answer; some can; none can (503)"
    )
    arms: dict[Arm, ArmHealth]
    dataset: DatasetHealth
    split: dict[Arm, float]


_NO_LOG: dict[str, Any] = {"model": Problem, "description": "no log is kept here"}
_IMPOSSIBLE: dict[str, Any] = {"model": Problem, "description": "the request asks for what cannot be"}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the body cannot be read, or a header that must be text is not"},
    408: {"model": Problem, "description": "the body did not come in time"},
    422: _IMPOSSIBLE,
    503: {
        "model": Problem,
        "description": "the arm is busy or away; ask again after `Retry-After` seconds",
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
    },
}


def create_app(
    service: Service,
    models: Mapping[Arm, Model],
    *,
    checkpoints: Mapping[Arm, str],
    metrics: Metrics | None = None,
    gather: Callable[[], Awaitable[Sequence[str]]] | None = None,
    log: EventLog | None = None,
    fallback: Arm | None = None,
    report: Callable[[], dict[str, Any]] | None = None,
    shadow_at_once: int = 4,
    token: str | None = None,
    body_seconds: float = 3 * BODY_SECONDS,
) -> FastAPI:
    """The application.

    Args:
        models: of the arms that have one.
        checkpoints: hashes of what was deployed; told even while a model is away.
        metrics: of this replica.
        gather: the texts of the metrics of all replicas, where there are several.
        log: where exposures, feedback and shadows go; None keeps none.
        fallback: see `Dispatcher`.
        report: what the experiment has shown so far, from the log; it may take its time. None where no log is kept.
        shadow_at_once: see `Shadow`.
        token: of who may change the experiment; None: nobody.
        body_seconds: time a body may take. Behind a proxy that has the guard as well, bodies are whole when they leave
            it, and what takes time here is the way between the two on a busy machine.
    """
    app = FastAPI(
        title="recsys-distill",
        description="Teacher and student recommenders side by side.",
        docs_url=None,
        redoc_url=None,
    )
    counted = metrics or Metrics()
    dispatcher = Dispatcher(service, models, fallback, counted)
    shadow = Shadow(models, service.experiment, at_once=shadow_at_once, metrics=counted, log=log)
    app.add_middleware(Guard, seconds=body_seconds)
    app.add_middleware(Counted, metrics=counted, paths=frozenset({"/recommend", "/recommend/batch"}))

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": sentence(error.errors(), _FORMS.get(request.url.path, RecommendRequest))}, 422)

    @app.exception_handler(Busy)
    async def no_room(request: Request, error: Busy) -> JSONResponse:
        note_failure(request)
        return _unavailable(f"the arm is busy ({error})")

    @app.exception_handler(Away)
    async def away(request: Request, error: Away) -> JSONResponse:
        note_failure(request)
        return _unavailable(str(error))

    def note_failure(request: Request) -> None:
        if log is not None:
            for task in request.scope.get(TASKS, ()):
                told = ("request_id", "user_id", "arm", "assigned_by", "experiment")
                log.append("failure", **{name: getattr(task, name) for name in told})

    def tell(task: Task, answer: Recommendation) -> RecommendResponse:
        counted.count_answer(task.answered_by, answer)
        if task.failed is not None and task.arm == "teacher":
            counted.count_teacher_fallback(task.failed)
        shadow.consider(task, answer)
        said = service.response(task, answer)
        if log is not None:
            log.append(
                "exposure",
                **said.model_dump(
                    include={
                        "request_id", "user_id", "arm", "assigned_by", "experiment", "answered_by", "failed",
                        "teacher_failed", "checkpoint", "fallback", "model_ms", "queue_ms",
                    }
                ),
                items=answer.items,
            )  # fmt: skip
        return said

    @app.post("/recommend", responses=_PROBLEMS)
    async def recommend(http: Request, request: RecommendRequest, request_id: RequestId = None) -> RecommendResponse:
        """The k best items for a user, a history, or both."""
        task = service.task(request, request_id or _new_id())
        http.scope[ARM], http.scope[TASKS] = task.arm, [task]
        (answered,) = await dispatcher.answer([task])
        return tell(*answered)

    @app.post("/recommend/batch", responses=_PROBLEMS)
    async def recommend_batch(http: Request, batch: BatchRequest, request_id: RequestId = None) -> BatchResponse:
        """Several requests: all are answered, or the batch is refused."""
        tasks = service.tasks(batch.requests, request_id or _new_id())
        http.scope[TASKS] = tasks
        arms = {task.arm for task in tasks}
        http.scope[ARM] = arms.pop() if len(arms) == 1 else SEVERAL
        answered = await dispatcher.answer(tasks)
        return BatchResponse(answers=[tell(*one) for one in answered])

    @app.get("/items", responses={422: _IMPOSSIBLE})
    async def items(
        search: Annotated[str, Query(max_length=100, description="part of a title, in any case; empty: all")] = "",
        limit: Annotated[int, Query(ge=1, le=50, description="how many at most")] = 10,
    ) -> ItemList:
        """Items by title: those that begin with the text come first, then those that hold it, popular ones first."""
        return service.search(search, limit)

    @app.get(
        "/items/{item_id:path}", responses={404: {"model": Problem, "description": "no such item"}, 422: _IMPOSSIBLE}
    )
    async def item(item_id: Annotated[Id, Path(description="catalogue id")]) -> Item:
        """Title and attributes of an item."""
        if (found := service.item(item_id)) is None:
            detail = f"the catalogue holds no item {reprlib.repr(item_id)}"
            return JSONResponse({"detail": detail}, 404)  # type: ignore[return-value]
        return found

    @app.post(
        "/feedback",
        status_code=202,
        responses={
            **{status: _PROBLEMS[status] for status in (400, 408, 422)},
            409: _NO_LOG,
        },
    )
    async def feedback(said: Feedback) -> Recorded:
        """Tell what came of a recommendation, so that it can be counted for its arm."""
        if log is None:
            detail = "no log is kept here, so feedback would be lost; serve with serving.log=true"
            return JSONResponse({"detail": detail}, 409)  # type: ignore[return-value]
        log.append("feedback", **said.model_dump())
        counted.count_feedback()
        return Recorded()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics_text() -> PlainTextResponse:
        """Counters and latency histograms of all replicas, in the text format of Prometheus."""
        texts = [counted.text()] if gather is None else await gather()
        return PlainTextResponse(merge(texts), media_type=CONTENT_TYPE)

    @app.get("/health", responses={503: {"model": Health, "description": "no arm can answer"}})
    async def health() -> Health:
        """What is served and which arms can answer; 503 only where none can."""
        states = await asyncio.gather(*(_state(models.get(arm), checkpoints.get(arm)) for arm in service.arms))
        away = sum(one.state == "away" for one in states)
        dataset = service.dataset
        said = Health(
            status="ok" if not away else "degraded" if away < len(states) else "unavailable",
            arms=dict(zip(service.arms, states, strict=True)),
            dataset=DatasetHealth(name=dataset.name, fingerprint=dataset.fingerprint),
            split=service.experiment.current.split,
        )
        code = 503 if said.status == "unavailable" else 200
        return JSONResponse(said.model_dump(), code)  # type: ignore[return-value]

    @app.get("/experiment")
    async def experiment() -> Experiment:
        """Who gets which arm, and how much of the student's work another arm repeats unseen."""
        return service.experiment.current

    latest: list[tuple[float, dict[str, Any]]] = []
    reading = asyncio.Lock()

    @app.get("/experiment/report", responses={409: _NO_LOG, 422: _IMPOSSIBLE})
    async def experiment_report() -> dict[str, Any]:
        """What the experiment has shown, as `ray_jobs.experiment_report` tells it; at most a minute old."""
        if report is None:
            detail = "no log is kept here, so nothing is known; serve with serving.log=true"
            return JSONResponse({"detail": detail}, 409)  # type: ignore[return-value]
        async with reading:  # it reads the whole log: one at a time
            if not latest or time.monotonic() - latest[0][0] > REPORT_SECONDS:
                latest[:] = [(time.monotonic(), await asyncio.to_thread(report))]
            return latest[0][1]

    async def check_token(given: Bearer) -> None:
        if token is None:
            raise HTTPException(403, f"the experiment cannot be changed here; set {TOKEN_VARIABLE} where this runs")
        if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
            detail = "this needs the header `Authorization: Bearer …` with the token of this server"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})

    @app.put(
        "/experiment",
        dependencies=[Depends(check_token)],
        responses={
            **_PROBLEMS,
            401: {"model": Problem, "description": "the token is missing or wrong"},
            403: {"model": Problem, "description": "no token is set, so nobody may"},
            503: {**_PROBLEMS[503], "description": "it cannot be changed now; ask again after `Retry-After` seconds"},
        },
    )
    async def change_experiment(change: Change) -> Experiment:
        """Change it; all replicas follow within a second."""
        return await service.experiment.change(change)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return respond_with(page(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def start() -> HTMLResponse:
        return respond_with(read_start_page())

    _tell_limits(app, service)
    return app


_FORMS: dict[str, type[BaseModel]] = {
    "/recommend/batch": BatchRequest, "/feedback": Feedback, "/experiment": Change,
}  # fmt: skip


def _new_id() -> str:
    return secrets.token_hex(8)


async def _state(model: Model | None, checkpoint: str | None) -> ArmHealth:
    if model is None:
        return ArmHealth(state="ready")
    try:
        return ArmHealth(state="ready", **await model.facts())
    except Busy:
        return ArmHealth(state="busy", checkpoint=checkpoint)
    except Away as error:
        return ArmHealth(state="away", reason=str(error), checkpoint=checkpoint)


def _unavailable(detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, 503, {"Retry-After": str(RETRY_SECONDS)})


def _tell_limits(app: FastAPI, service: Service) -> None:
    """Put into the schema what this service accepts beyond the form of requests."""
    schema = app.openapi()  # kept and returned from now on
    forms = schema["components"]["schemas"]
    fields = forms["RecommendRequest"]["properties"]
    fields["k"].update(minimum=1, maximum=service.max_k)
    for name, most in (("history", service.max_history), ("only", service.max_ids)):
        next(one for one in fields[name]["anyOf"] if one["type"] == "array")["maxItems"] = most
    fields["exclude"]["maxItems"] = service.max_ids
    forms["BatchRequest"]["properties"]["requests"]["maxItems"] = service.max_requests
    next(one for one in fields["arm"]["anyOf"] if one["type"] == "string")["enum"] = list(service.arms)
    names = service.catalogue.attributes.names
    for name in ("where", "at_most"):
        fields[name]["propertyNames" if names else "maxProperties"] = {"enum": names} if names else 0
