"""The server with Ray Serve: the same application in a deployment, over the cluster's registry actor.

It is an application of its own beside the one that serves models, so that either can be deployed without the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
from fastapi import FastAPI
from ray import serve

from mlray._ray_compat import serve_address
from mlray.errors import ConfigError
from mlray.registry.actor import RemoteRegistry
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.model_registry import ModelRegistry
from mlray.registry_server.alone import check_open
from mlray.registry_server.app import create_app
from mlray.registry_server.config import Config
from mlray.registry_server.desk import Backend

APPLICATION = "mlray_registry"
ROUTE = "/registry"
ONGOING = 64


@dataclass(frozen=True, kw_only=True)
class Running:
    """The registry answers under `url`, for instance at `url`/v1/models."""

    url: str

    def stop(self) -> None:
        """Ends the application; the registry's actor and what it keeps stay."""
        serve.delete(APPLICATION)


def deploy(database_url: str, artifacts_url: str, config: Config, *, route: str = ROUTE, cpus: float = 0.1) -> Running:
    """Serves the cluster's registry under a route of Ray Serve, which is started on the configured host and port
    unless it runs. Ray must be running. ConfigError where Serve runs on another port, and where a registry without
    users would be open to other machines.
    """
    if not ray.is_initialized():
        raise ConfigError("Ray Serve needs a Ray cluster: call ray.init() first, or use `mlray registry serve`")
    running = serve_address()
    if running is not None:
        if running[1] != config.port:
            raise ConfigError(
                f"registry_server: port={config.port}, but this cluster's Ray Serve listens on {running[1]}; use that"
            )
        config = replace(config, host=running[0])
    check_open(clustered(database_url, artifacts_url, config))
    if running is None:
        serve.start(http_options={"host": config.host, "port": config.port})
    wrapped: Any = serve.ingress(_builder(database_url, artifacts_url, config))
    deployment: Any = serve.deployment(
        wrapped(), name="registry", ray_actor_options={"num_cpus": cpus}, max_ongoing_requests=ONGOING
    )
    serve.run(deployment.bind(), name=APPLICATION, route_prefix=route)
    return Running(url=f"http://{config.host}:{config.port}{route}")


def _builder(database_url: str, artifacts_url: str, config: Config) -> Callable[[], FastAPI]:
    """A function of no arguments for Serve, which calls it in every replica."""

    def build() -> FastAPI:
        return create_app(clustered(database_url, artifacts_url, config))

    return build


def clustered(database_url: str, artifacts_url: str, config: Config) -> Backend:
    """The rules of the joined cluster's actor, which is started if there is none."""
    artifacts = ArtifactStore(artifacts_url)
    rules = cast(ModelRegistry, RemoteRegistry(database_url, artifacts.url))
    return Backend(rules=rules, artifacts=artifacts, config=config)
