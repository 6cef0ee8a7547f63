"""The server alone, in this process: over the rules themselves, or over a cluster's actor where one is named."""

import socket

import uvicorn

from mlray.errors import ConfigError, PortInUse
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.clock import utc_now
from mlray.registry.database import Database
from mlray.registry.model_registry import ModelRegistry
from mlray.registry_server.app import create_app
from mlray.registry_server.config import Config
from mlray.registry_server.desk import Backend

GRACE_SECONDS = 10


def embedded(database_url: str, artifacts_url: str, config: Config) -> Backend:
    """The rules in this process, over a database and an artifact store."""
    artifacts = ArtifactStore(artifacts_url)
    rules = ModelRegistry(Database(database_url), artifacts, clock=utc_now)
    return Backend(rules=rules, artifacts=artifacts, config=config)


def serve(backend: Backend) -> None:
    """Serves until the process is told to end (SIGTERM, Ctrl-C), when requests under way are finished.

    ConfigError where a registry that asks nobody for a token would be open to other machines.
    """
    check_open(backend)
    config = backend.config
    with _listening(config.host, config.port) as port:
        host = f"[{config.host}]" if ":" in config.host else config.host
        print(f"registry: http://{host}:{port.getsockname()[1]}", flush=True)
        settings = uvicorn.Config(
            create_app(backend), log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, server_header=False
        )
        uvicorn.Server(settings).run(sockets=[port])


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise PortInUse(
            f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port, or a --host of this machine"
        ) from error


def check_open(backend: Backend) -> None:
    """ConfigError where the registry has no user, so that everybody may change it, and others can reach the host."""
    if not backend.config.is_local and not backend.rules.users():
        raise ConfigError(
            f"host={backend.config.host} is reached by other machines, and this registry has no users, so it would let "
            "anybody do anything: add the first one, who is its admin, by `mlray user add NAME`, or serve on 127.0.0.1"
        )
