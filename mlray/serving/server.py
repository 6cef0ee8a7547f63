"""The HTTP interface over predictors: FastAPI, no Ray Serve.

400 not JSON or not of the right shape; 404 no such model or path; 413 too large; 422 a field or an instant that does
not fit; 503 with Retry-After where the store, its state or the prediction log cannot be used now; 500 our fault. 403
where predictions are not explained here. For events also 403 a source that takes none here. 429 with Retry-After where
too many rows of events, or too many requests to explain, wait.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import pyarrow as pa
from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from mlray import errors
from mlray.errors import Busy, InvalidRequest, MlrayError, RequestTooLarge, UnknownName
from mlray.serving import answer, openapi
from mlray.serving.config import Config
from mlray.serving.events import Events
from mlray.serving.prediction_log import PredictionLog, log_rows
from mlray.serving.predictor import Predictor, row_types, unexplained
from mlray.serving.request import parse

logger = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds that a refused caller is told to wait."""
WAITING = 8
"""Requests to explain that may wait for their turn; with them the one at work is far from all that a replica takes."""
STATUS: Mapping[type[MlrayError], int] = {
    errors.InvalidRequest: 400, errors.UnknownName: 404, errors.RequestTooLarge: 413, errors.SchemaError: 422,
    errors.TimeError: 422, errors.NotMaterialized: 503, errors.StoreError: 503, errors.LogUnavailable: 503,
    errors.DefinitionChanged: 503, errors.TableNotFound: 404, errors.Forbidden: 403, Busy: 429,
    errors.Unanswered: 503, errors.Conflict: 503,
}
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

Clock = Callable[[], int]


class Server:
    """What the routes do, for a set of predictors by model name. clock: microseconds UTC."""

    def __init__(self, predictors: Mapping[str, Predictor], log: PredictionLog, config: Config, clock: Clock) -> None:
        self.predictors, self.log, self.config, self.clock = predictors, log, config, clock
        self.rows = {name: row_types(p.store, p.service) for name, p in predictors.items()}

    def predict(self, name: str, body: bytes, request_id: str, *, explained: bool = False) -> bytes:
        """The answer to a body, logged; raises what is wrong with it. explained: with what each feature has added."""
        predictor, now = self.predictor(name), self.clock()
        most = self.config.max_explained if explained else self.config.max_rows
        asked = parse(body, self.rows[name], now=now, allow_at=self.config.allow_at, max_rows=most)
        self.log.check()
        found = predictor.predict(asked.rows, asked.at)
        version = predictor.version
        task = predictor.model.task
        why = answer.reasons(task, predictor.explain(found)) if explained else {}
        logged = log_rows(request_id, now, version, asked.rows, asked.at, found.vectors, found.scores, task)
        self.log.add(version, logged)
        content: dict[str, Any] = {
            "request_id": request_id, "model": version.reference, **answer.scores(task, found.scores),
            "q": answer.moments(asked.at.floor), **why,
        }
        if asked.features:
            content["features"] = answer.vectors(found.vectors)
        return answer.encoded(content)

    def predictor(self, name: str) -> Predictor:
        """UnknownName for a model that is not served here."""
        if name not in self.predictors:
            raise UnknownName.of("served model", name, self.predictors)
        return self.predictors[name]

    def card(self, name: str) -> dict[str, Any]:
        """What is known of a served model."""
        predictor = self.predictor(name)
        version, row = predictor.version, self.rows[name]
        return {
            "name": version.name, "version": version.version, "reference": version.reference,
            "service": version.service, "service_hash": version.service_hash, "row": _texts(row),
            "request_fields": _texts({n: row[n] for n in predictor.service.request}),
            "keys": _texts({n: row[n] for n in predictor.service.keys}),
            "features": dict(predictor.model.signature.inputs), "label": version.label,
            "task": predictor.model.task.kind, "classes": list(predictor.model.task.classes),
            "metrics": {n: answer.plain(float(v)) for n, v in version.metrics.items()},
            "aliases": list(version.aliases), "created_at": answer.instant(version.created_at),
        }

    def health(self, *, ready: bool) -> dict[str, Any]:
        """The log's state, and with `ready` whether each model could answer now."""
        log = self.log.health()
        problems = [f"prediction log: {log.error}"] if log.error else []
        blocking = self._blocking() if ready else []
        status = "unavailable" if blocking else "degraded" if problems else "ok"
        models = [p.version.reference for p in self.predictors.values()]
        return {"status": status, "models": models, "problems": blocking + problems, "log": asdict(log)}

    def _blocking(self) -> list[str]:
        found = []
        for check in (self.log.check, *(p.check for p in self.predictors.values())):
            try:
                check()
            except MlrayError as error:
                found.append(f"{type(error).__name__}: {error}")
        return found


def create_app(
    predictors: Mapping[str, Predictor], log: PredictionLog, config: Config, *, clock: Clock,
    events: Events | None = None, on_shutdown: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application; its end closes the log. events: takes those of sources; on_shutdown: called after that."""
    server = Server(predictors, log, config, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        try:
            await run_in_threadpool(log.close)
        finally:
            on_shutdown()

    app = FastAPI(title="mlray", description=openapi.DESCRIPTION, version="1", lifespan=lifespan)
    _add_models(app, server)
    _add_health(app, server)
    if events is not None:
        _add_events(app, server, events)
    for kind in (MlrayError, HTTPException, Exception):
        app.add_exception_handler(kind, _problem)
    return app


def _add_models(app: FastAPI, server: Server) -> None:
    def predict_as(name: str) -> Callable[[Request], Any]:
        async def predict(request: Request) -> Response:
            return await _predict(server, name, request)

        return predict

    for name, predictor in server.predictors.items():
        app.post(
            f"/v1/models/{name}/predict", operation_id=f"predict_{name}", summary=f"Scores of {name}", tags=["models"],
            response_class=Response, responses=openapi.answers(predictor.model.task),
            openapi_extra=openapi.request_body(server.rows[name], server.config, server.config.max_rows),
        )(predict_as(name))
    _add_explanations(app, server)

    @app.post("/v1/models/{name}/predict", include_in_schema=False)
    async def unknown(name: str) -> Response:
        server.predictor(name)
        raise AssertionError(f"{name} has a route of its own")

    @app.get("/v1/models", response_model=answer.Models, tags=["models"])
    def models() -> dict[str, Any]:
        """Every model served here."""
        return {"models": [server.card(name) for name in server.predictors]}

    @app.get("/v1/models/{name}", response_model=answer.ModelCard, tags=["models"], responses=openapi.problems(404))
    def model(name: str) -> dict[str, Any]:
        """One model: its version, what a row holds, what it reads, how well it did."""
        return server.card(name)


def _add_explanations(app: FastAPI, server: Server) -> None:
    turns = _Turns()

    def explain_as(name: str) -> Callable[[Request], Any]:
        async def explain(request: Request) -> Response:
            return await _predict(server, name, request, turns)

        return explain

    for name, predictor in server.predictors.items():
        if predictor.explainer is not None:
            app.post(
                f"/v1/models/{name}/explain", operation_id=f"explain_{name}", tags=["models"], response_class=Response,
                summary=f"Scores of {name}, and why", responses=openapi.explained(predictor.model.task),
                openapi_extra=openapi.request_body(server.rows[name], server.config, server.config.max_explained),
            )(explain_as(name))

    @app.post("/v1/models/{name}/explain", include_in_schema=False)
    async def not_explained(name: str) -> Response:
        raise unexplained(server.predictor(name).version)


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/healthz", response_model=answer.Health, tags=["health"])
    def healthz() -> dict[str, Any]:
        """Whether the process lives, and how its log does."""
        return server.health(ready=False)

    @app.get("/readyz", response_model=answer.Health, tags=["health"], responses=openapi.not_ready())
    def readyz(response: Response) -> dict[str, Any]:
        """Whether a request could be answered now: store, state and log are tried."""
        found = server.health(ready=True)
        if found["status"] == "unavailable":
            response.status_code = 503
            response.headers["Retry-After"] = str(RETRY_AFTER)
        return found


def _add_events(app: FastAPI, server: Server, events: Events) -> None:
    @app.post(
        "/v1/sources/{name}/events", operation_id="ingest", tags=["sources"], response_class=Response,
        responses=openapi.taken(), openapi_extra=openapi.events_body(server.config),
    )
    async def ingest(name: str, request: Request) -> Response:
        """Adds rows to a source's table, and to every online view of it; answered when they can be read."""
        body = await read_body(request, server.config.max_events_bytes)
        request_id = _request_id(request)
        found = await events.ingest(name, body, request.headers.get("idempotency-key"))
        content = {
            "request_id": request_id, "source": found.source, "rows": found.rows, "version": found.version,
            "views": list(found.views),
        }
        return Response(answer.encoded(content), media_type="application/json", headers={"X-Request-ID": request_id})


class _Turns:
    """Explanations take turns outside the threads, of which none is kept from a prediction."""

    def __init__(self) -> None:
        self._turn, self._waiting = asyncio.Semaphore(), 0

    @asynccontextmanager
    async def next(self) -> AsyncIterator[None]:
        """Waits for its turn and holds it; Busy where WAITING wait already."""
        if self._waiting >= WAITING:
            raise Busy(f"{WAITING} requests wait to be explained already; ask again, or predict without reasons")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()


async def _predict(server: Server, name: str, request: Request, turns: _Turns | None = None) -> Response:
    """With turns: explained, in its turn, which begins when the whole body is here."""
    body = await read_body(request, server.config.max_body_bytes)
    request_id = _request_id(request)
    async with turns.next() if turns else nullcontext():
        content = await run_in_threadpool(server.predict, name, body, request_id, explained=turns is not None)
    return Response(content, media_type="application/json", headers={"X-Request-ID": request_id})


async def read_body(request: Request, limit: int) -> bytes:
    """At most `limit` bytes; RequestTooLarge as soon as more are announced or come."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(f"{declared} bytes", limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(f"more than {limit} bytes", limit)
        parts.append(part)
    return b"".join(parts)


def _too_large(got: str, limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body has {got}, at most {limit} are taken; send fewer rows per request")


def _request_id(request: Request) -> str:
    """The caller's own, kept for this request; InvalidRequest where it is not 1 to 128 visible ASCII characters."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get("x-request-id")
        request.state.request_id = given if given and _REQUEST_ID.fullmatch(given) else uuid4().hex
        if given is not None and request.state.request_id != given:
            raise InvalidRequest("X-Request-ID must be 1 to 128 visible ASCII characters; leave it out to be given one")
    found: str = request.state.request_id
    return found


async def _problem(request: Request, error: Exception) -> Response:
    request_id = _request_id(request)
    status, message = _explained(error, request_id)
    content = {"error": _kind(error), "message": message, "request_id": request_id}
    headers = {"X-Request-ID": request_id}
    if status in (429, 503):
        headers["Retry-After"] = str(error.retry_after if isinstance(error, Busy) else RETRY_AFTER)
    return Response(answer.encoded(content), status, headers, "application/json")


def _explained(error: Exception, request_id: str) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.status_code, f"{error.detail}; the paths are described at /openapi.json and /docs"
    if isinstance(error, MlrayError):
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        if status >= 500:
            logger.error("request %s: %s: %s", request_id, type(error).__name__, error)
        return status, str(error)
    logger.error("request %s failed", request_id, exc_info=error)
    return 500, "an unexpected error; the server's log has it under this request_id"


def _kind(error: Exception) -> str:
    return type(error).__name__ if isinstance(error, MlrayError | HTTPException) else "InternalError"


def _texts(types: Mapping[str, pa.DataType]) -> dict[str, str]:
    return {name: str(kind) for name, kind in types.items()}


