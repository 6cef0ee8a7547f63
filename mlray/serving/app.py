"""Ray Serve: one application, `mlray`, of one deployment: feature lookup and model in one process.

A second hop between processes would cost three times the whole answer. A replica is given the versions themselves, not
references to them, so that every replica, also one restarted later, serves what was deployed.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError

from mlray import cluster
from mlray._ray_compat import raised_in, serve_address
from mlray.errors import ConfigError, ServingFailed, UnknownName
from mlray.features.service import FeatureService
from mlray.gates.explainer import BACKGROUND_FILE, Explainer
from mlray.offline import delta
from mlray.online.store import OnlineStore, open_store
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.model_version import ModelVersion
from mlray.serving.config import Config
from mlray.serving.events import Events
from mlray.serving.ingress import await_free, await_ready, check_port, url_of
from mlray.serving.prediction_log import PredictionLog
from mlray.serving.predictor import Predictor, check_pinned, check_vectors, pinned_service, vector_types
from mlray.serving.server import create_app
from mlray.training.model import load_model
from mlray.writer.actor import RemoteWriter
from mlray.writer.actor import stop as stop_writers
from mlray.writer.writer import FUTURE

APPLICATION = "mlray"
DEPLOYMENT = "predictor"
REQUEST_SECONDS = 60
ONGOING, QUEUED = 64, 256
"""Requests that one replica works on, and that wait for it; more are refused with 503."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a replica is given. online, artifacts, lake, log: URLs or absolute paths; current: see `Predictor`."""

    versions: tuple[ModelVersion, ...]
    config: Config
    online: str
    artifacts: str
    lake: str
    log: str
    current: Mapping[str, FeatureService]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Models that answer under `url`; references such as flights/3."""

    url: str
    models: tuple[str, ...]
    log: str

    def stop(self) -> None:
        """Ends the application, its prediction log written."""
        undeploy()

    def predict_url(self, name: str | None = None) -> str:
        """Where to POST; the first model where no name is given."""
        return f"{self.url}/v1/models/{name or self.models[0].partition('/')[0]}/predict"


def deploy(
    config: Config, versions: Sequence[ModelVersion], *, online: str, artifacts: str, lake: str,
    current: Mapping[str, FeatureService] | None = None, future: timedelta = FUTURE,
) -> Running:
    """Serves exactly these versions, one of each model, in place of those served before; returns when they answer.

    online, artifacts, lake: as in the settings, reachable from every node. current: the definitions in force, by name
    of service. future: how much later than now an event may be that is sent to a source. Ray must be running. Nothing
    is started where a version cannot be served: DefinitionChanged, NotMaterialized, UnknownName, CorruptArtifact,
    PortInUse, ConfigError. ServingFailed where a replica fails.
    """
    served = Served(versions=tuple(versions), config=config, online=online, artifacts=artifacts, lake=lake,
                    log=delta.resolve(lake, config.log), current=dict(current or {}))
    check(served)
    new = reserve(config)
    try:
        start(config)
        if config.ingest:
            RemoteWriter(lake, online, future).start()
        serve.run(application(served), name=APPLICATION, route_prefix="/")
        url = url_of(config.host, config.port)
        await_ready(url, config.ready_seconds)
    except (RuntimeError, TimeoutError, RayError, ServingFailed) as error:
        said = _said() or str(error)
        undeploy() if new else serve.delete(APPLICATION)
        raise raised_in(said) or ServingFailed(f"{_names(served)} could not be served: {said}") from error
    return Running(url=url, models=tuple(v.reference for v in served.versions), log=served.log)


def undeploy() -> None:
    """Ends the application, its logs written first, and the writers of events, what they have accepted written; and
    Serve with its port, unless it has other applications or its cluster ends with this process.
    """
    address = serve_address()
    if address is None:
        return
    if APPLICATION in serve.status().applications:
        serve.delete(APPLICATION)
        stop_writers()
    if not cluster.ends_with_process() and not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call]
        await_free(*address)  # the proxy outlives the call by a moment


def check(served: Served) -> None:
    """What can be known before anything is started."""
    names = [version.name for version in served.versions]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"serve: name one version of each model, at least one; got {_names(served) or 'none'}")
    if served.online.startswith("memory://"):
        raise ConfigError(f"online='{served.online}' lives in one process, a server is another; use lmdb:// or redis://")
    for name in [] if isinstance(served.config.explain, bool) else served.config.explain:
        if name not in names:
            raise UnknownName.of("served model", name, names)
    cluster.check_store(served.online)
    store, artifacts = open_store(served.online), ArtifactStore(served.artifacts)
    try:
        for version in served.versions:
            manifest = artifacts.require(version.digest)
            if served.config.explains(version.name) and BACKGROUND_FILE not in {file.path for file in manifest.files}:
                raise ConfigError(
                    f"serving: explain={served.config.explain!r}, but {version.reference} keeps no {BACKGROUND_FILE}; "
                    "train it with [gates.explanation], or leave it out of explain"
                )
            service = pinned_service(version)
            check_pinned(version, service, served.current.get(version.service))
            check_vectors(version, vector_types(store, service))
    finally:
        store.close()


def reserve(config: Config) -> bool:
    """Whether Serve is still to be started on the configured port; PortInUse, ConfigError where it cannot be."""
    running = serve_address()
    if running is None:
        check_port(config.host, config.port)
        return True
    if running[1] != config.port:
        raise ConfigError(
            f"serving: port={config.port}, but this cluster's Ray Serve listens on {running[1]}; use that, or end it "
            "first with mlray.serving.app.undeploy()"
        )
    return False


def start(config: Config) -> None:
    """Starts Serve, unless it runs."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the driver's share of it, which would go to the terminal
    if serve_address() is None:
        options = {"host": config.host, "port": config.port, "request_timeout_s": REQUEST_SECONDS}
        serve.start(http_options=options, logging_config={"enable_access_log": False, "log_level": "WARNING"})


def application(served: Served) -> Any:
    """The deployment, bound to what it serves."""
    config = served.config
    wrapped: Any = serve.ingress(builder(served))
    replica: Any = serve.deployment(
        wrapped(),
        name=DEPLOYMENT,
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus},
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        graceful_shutdown_timeout_s=30,
        logging_config={"enable_access_log": False},
    )
    return replica.bind()


def builder(served: Served) -> Callable[[], FastAPI]:
    """A function of no arguments for Serve, which calls it in every replica."""

    def build() -> FastAPI:
        return open_app(served)

    return build


def open_app(served: Served) -> FastAPI:
    """The application over stores of this process, which close with it."""
    config, store = served.config, open_store(served.online)
    predictors = {v.name: open_predictor(v, served, store) for v in served.versions}
    log = PredictionLog(served.log, rows=config.log_rows, seconds=config.log_seconds, capacity=config.log_capacity)
    events = Events(served.lake, config, RemoteWriter(served.lake, served.online).ingest_async)
    return create_app(predictors, log, config, clock=wall_clock, events=events, on_shutdown=store.close)


def open_predictor(version: ModelVersion, served: Served, store: OnlineStore) -> Predictor:
    """The predictor of a version, from a verified copy of its checkpoint."""
    with TemporaryDirectory(prefix="mlray-model-") as folder:
        checkpoint = ArtifactStore(served.artifacts).download(version.digest, Path(folder) / "checkpoint")
        model = load_model(checkpoint)
        explainer = Explainer.of(model, checkpoint) if served.config.explains(version.name) else None
    current = served.current.get(version.service)
    return Predictor(version, pinned_service(version), model, store, current, explainer)


def wall_clock() -> int:
    """Microseconds UTC; the one place where serving reads it."""
    return time.time_ns() // 1000


def _said() -> str:
    """What Serve reports of replicas that do not start."""
    found = serve.status().applications.get(APPLICATION)
    return "; ".join(d.message.strip() for d in found.deployments.values() if d.message) if found else ""


def _names(served: Served) -> str:
    return ", ".join(version.reference for version in served.versions)
