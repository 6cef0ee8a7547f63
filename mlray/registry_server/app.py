"""The application: its routes by topic, one shape for its errors, MLflow's where MLflow's client asks."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mlray.errors import MlrayError
from mlray.registry_server import files, models, people, versions
from mlray.registry_server.desk import Backend, path_of
from mlray.registry_server.limits import BodyLimit
from mlray.registry_server.mlflow import artifacts as mlflow_artifacts
from mlray.registry_server.mlflow import models as mlflow_models
from mlray.registry_server.mlflow import versions as mlflow_versions
from mlray.registry_server.mlflow.codes import PREFIX, refused
from mlray.registry_server.problems import problem, problems
from mlray.registry_server.shapes import Health

DESCRIPTION = (
    "What may serve, who said so, and proof of both. A token goes into `Authorization: Bearer`; a registry without "
    "users needs none. `If-Match` with a version's ETag guards a promotion, `Idempotency-Key` any change. "
    "`/api/2.0/mlflow` is for MLflow's clients."
)


def create_app(backend: Backend) -> FastAPI:
    """The application over a backend; it holds no state of its own."""
    app = FastAPI(title="mlray registry", description=DESCRIPTION, version="1")
    app.state.backend = backend
    for part in (models, versions, files, people, mlflow_models, mlflow_versions, mlflow_artifacts):
        app.include_router(part.router)
    _add_health(app, backend)
    for kind in (MlrayError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refusal)
    app.add_middleware(BodyLimit, config=backend.config)
    return app


def _add_health(app: FastAPI, backend: Backend) -> None:
    @app.get("/healthz", response_model=Health, tags=["health"])
    def healthz() -> Health:
        """Whether the process lives."""
        return Health(status="ok")

    @app.get("/readyz", response_model=Health, tags=["health"], responses=problems())
    def readyz() -> Health:
        """Whether the database answers; 503 where it does not."""
        backend.rules.policy()
        return Health(status="ok")


def _refusal(request: Request, error: Exception) -> Response:
    return refused(request, error) if path_of(request.scope).startswith(PREFIX) else problem(request, error)
