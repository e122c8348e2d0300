"""The HTTP application: `POST /recommend`, `GET /health`, `GET /docs`, and a schema that says what they do."""

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from recsys.errors import UserError
from recsys.serving.arms import Model
from recsys.serving.assignment import Arm
from recsys.serving.guard import BODY_SECONDS, Guard
from recsys.serving.page import page
from recsys.serving.ranker import RETRY_SECONDS, Away, Busy
from recsys.serving.service import RecommendRequest, RecommendResponse, Service, sentence

State = Literal["ready", "busy", "away"]


class Problem(BaseModel):
    detail: str = Field(description="one sentence: what is wrong and what to do")


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


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the body cannot be read, or a header that must be text is not"},
    408: {"model": Problem, "description": "the body did not come in time"},
    422: {"model": Problem, "description": "the request asks for what cannot be"},
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
    body_seconds: float = 3 * BODY_SECONDS,
) -> FastAPI:
    """The application.

    Args:
        models: of the arms that have one.
        checkpoints: hashes of what was deployed; told even while a model is away.
        body_seconds: time a body may take. Behind a proxy that has the guard as well, bodies are whole when they leave
            it, and what takes time here is the way between the two on a busy machine.
    """
    app = FastAPI(
        title="recsys-distill",
        description="Teacher and student recommenders side by side.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, seconds=body_seconds)

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": sentence(error.errors())}, 422)

    @app.exception_handler(Busy)
    async def no_room(_: Request, error: Busy) -> JSONResponse:
        return _unavailable(f"the arm is busy ({error})")

    @app.exception_handler(Away)
    async def away(_: Request, error: Away) -> JSONResponse:
        return _unavailable(str(error))

    @app.post("/recommend", responses=_PROBLEMS)
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        """The k best items for a user, a history, or both."""
        task = service.task(request)
        return service.response(task, service.without_model(task) or await models[task.arm].rank(task))

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
            split=service.split,
        )
        code = 503 if said.status == "unavailable" else 200
        return JSONResponse(said.model_dump(), code)  # type: ignore[return-value]

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> str:
        return page(app.openapi())

    _tell_limits(app, service)
    return app


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
    fields = schema["components"]["schemas"]["RecommendRequest"]["properties"]
    fields["k"].update(minimum=1, maximum=service.max_k)
    next(one for one in fields["history"]["anyOf"] if one["type"] == "array")["maxItems"] = service.max_history
    next(one for one in fields["arm"]["anyOf"] if one["type"] == "string")["enum"] = list(service.arms)
