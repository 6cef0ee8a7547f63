"""A run told to an MLflow tracking server: how it is configured, its metrics by epoch, its model, its data.

Extra `mlflow`. The driver tells, in a thread of its own, what the run's directory holds and the server does not know
yet: after each epoch, and as the run ends. So training never waits for the server, and one that is away is told the
rest when it is back, by this run or by one that goes on with it; which run it is there stands in `<run>/mlflow.json`.
"""

import importlib.util
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlray.errors import ConfigError
from mlray.training.checkpoint import History, write_synced
from mlray.training.config import Tracking
from mlray.training.model import read_json
from mlray.training.progress import OnEpoch
from mlray.training.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

LONGEST_PARAM = 500
"""Characters of a parameter, which a server older than MLflow 2.9 takes."""
LOOK_SECONDS = 5.0
"""Within which a server answers that it is there."""
MOST_METRICS, MOST_PARAMS = 1000, 100
"""That MLflow takes in one request."""
RECORD = "mlflow.json"


@dataclass(kw_only=True)
class Tracker:
    """Tells one run. settings: plain, as `to_json` gives them; history: of what is on the disk."""

    to: Tracking
    directory: Path
    settings: Mapping[str, Any]
    history: Callable[[], History]
    run: Run | None = None
    status: str = "RUNNING"
    told: int = 0
    run_id: str | None = None
    away: bool = False
    news: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        """Tells all news until the run has ended; what the server did not take goes with the next."""
        while True:
            self.news.wait()
            self.news.clear()
            status = self.status
            self.tell(status)
            if status != "RUNNING":
                return

    def tell(self, status: str) -> None:
        try:
            look_at(str(self.to.uri))
            self.bring_up_to_date(status)
            self.away = False
        except Exception as error:  # noqa: BLE001  whatever a server or its client raises, the training goes on
            if not self.away or status != "RUNNING":
                logger.warning("%s", self.untold(error))
            self.away = True

    def untold(self, error: Exception) -> str:
        name = self.directory.name
        return (
            f"MLflow at {self.to.uri} was not told of run '{name}' beyond epoch {self.told}: {error}; the run goes on, "
            f"and all of it is in {self.directory}; the server is asked again after the next epoch, as the run ends, "
            f"and when run='{name}' is trained again"
        )

    def bring_up_to_date(self, status: str) -> None:
        """Tells what the server does not know."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.to.uri)
        if self.run_id is None:
            self.run_id = self.begun(client)
        history = self.run.history if self.run and self.run.history else self.history()
        epochs = [one for one in history if number_of(one) > self.told]
        log(client, self.run_id, {number_of(epoch): epoch for epoch in epochs})
        self.told = max(map(number_of, epochs), default=self.told)
        if self.run is not None:
            self.tell_end(client, self.run_id, self.run)
        if status != "RUNNING":
            client.set_terminated(self.run_id, status)

    def begun(self, client: "MlflowClient") -> str:
        """The run on the server: the one that this run has there, or a new one. What a run was begun with, such as the
        number of epochs, is not changed there when a longer one goes on with it.
        """
        from mlflow.entities import Param

        run_id = self.held() or self.created(client)
        known = client.get_run(run_id).data
        self.told = int(known.metrics.get("epoch", known.metrics.get("round", 0)))
        new = [Param(name, value) for name, value in params(self.settings).items() if name not in known.params]
        client.log_batch(run_id, params=new[:MOST_PARAMS])
        client.update_run(run_id, status="RUNNING")
        logger.info("MLflow at %s calls run '%s' %s", self.to.uri, self.directory.name, run_id)
        return run_id

    @property
    def where(self) -> dict[str, str]:
        return {"uri": str(self.to.uri), "experiment": self.to.experiment}

    def held(self) -> str | None:
        """Which run this one is there, as it was kept."""
        record = self.directory / RECORD
        held = read_json(record) if record.exists() else {}
        return held["run_id"] if self.where.items() <= held.items() else None

    def created(self, client: "MlflowClient") -> str:
        found = client.get_experiment_by_name(self.to.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self.to.experiment)
        tags = {"mlray.run": self.directory.name, "mlray.directory": str(self.directory)}
        run_id: str = client.create_run(experiment, tags=tags, run_name=self.directory.name).info.run_id
        write_synced(self.directory / RECORD, {**self.where, "run_id": run_id})
        return run_id

    def tell_end(self, client: "MlflowClient", run_id: str, run: Run) -> None:
        """The metrics that are not an epoch's, the digest of the data, and the files of the model."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        of_epochs = {name for epoch in run.history for name in epoch}
        log(client, run_id, {self.told: {name: value for name, value in run.metrics.items() if name not in of_epochs}})
        source = {"service": run.service, "definition": run.service_hash, "tables": run.sources, "spine": run.spine}
        data = Dataset(
            name=run.service,
            digest=run.fingerprint[:36],  # the most that MLflow takes
            source_type="mlray",
            source=json.dumps({**source, "fingerprint": run.fingerprint}),
        )
        client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        client.log_artifacts(run_id, run.checkpoint, "model")


@contextmanager
def tracked(
    to: Tracking | None, directory: Path, settings: Mapping[str, Any], history: Callable[[], History]
) -> Iterator[Tracker | None]:
    """Tells the run that goes on inside; None where no server is named. ConfigError without the extra 'mlflow'.

    Whoever leaves waits for what is still untold, `wait_seconds` at most, and not for a server that is away.
    """
    if to is None or to.uri is None:
        yield None
        return
    check_installed()
    tracker = Tracker(to=to, directory=directory, settings=settings, history=history)
    thread = threading.Thread(target=tracker.work, name="mlflow", daemon=True)
    thread.start()
    tracker.news.set()
    ended = "FAILED"
    try:
        yield tracker
        ended = "FINISHED"
    finally:
        tracker.status = ended
        tracker.news.set()
        thread.join(to.wait_seconds)
        if thread.is_alive():
            late = TimeoutError(f"it took more than {to.wait_seconds:g} s (wait_seconds)")
            logger.warning("%s", tracker.untold(late))


def telling(tracker: Tracker | None, on_epoch: OnEpoch) -> OnEpoch:
    """`on_epoch`, and news for the tracker."""

    def told(metrics: Mapping[str, float]) -> None:
        on_epoch(metrics)
        if tracker is not None:
            tracker.news.set()

    return told


def check_installed() -> None:
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is for what a verb answers
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("training: tracking needs a package: pip install 'mlray[mlflow]'")


def look_at(uri: str) -> None:
    """OSError where nobody answers, or a gateway in the server's place: MLflow's client would try for minutes."""
    import requests  # which is how MLflow asks; it knows proxies and REQUESTS_CA_BUNDLE

    trusted = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    anybody = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    answer = requests.get(f"{uri.rstrip('/')}/health", timeout=LOOK_SECONDS, verify=trusted or not anybody)
    if answer.status_code >= 500:
        raise ConnectionError(f"{uri} answers {answer.status_code} {answer.reason}")


def log(client: "MlflowClient", run_id: str, metrics: Mapping[int, Mapping[str, float]]) -> None:
    """Metrics by step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    every = [Metric(name, value, now, step) for step, held in metrics.items() for name, value in held.items()]
    for start in range(0, len(every), MOST_METRICS):
        client.log_batch(run_id, metrics=every[start : start + MOST_METRICS])


def number_of(metrics: Mapping[str, float]) -> int:
    """Of an epoch, or of a round of trees."""
    return int(metrics["epoch"] if "epoch" in metrics else metrics["round"])


def params(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as MLflow's parameters: a section's by section.name, what is nested deeper as JSON; None is left out."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inside = value.items() if isinstance(value, Mapping) and name != "arguments" else ()
        found |= {f"{name}.{inner}": held for inner, held in inside} or {name: value}
    return {name: text(value)[:LONGEST_PARAM] for name, value in found.items() if value is not None}


def text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
