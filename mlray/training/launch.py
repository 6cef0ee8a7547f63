"""Starts a training on the cluster and waits for its end: prepare the data, run the loop on Ray Train, make the Run."""

import math
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from mlray.errors import DefinitionError, SchemaError
from mlray.features.catalog import pinned
from mlray.features.service import origins
from mlray.offline.content import spelt
from mlray.offline.written import Told
from mlray.registry.gates import Gate, write_gates
from mlray.registry.provenance import capture
from mlray.training import optimization
from mlray.training.checkpoint import History, RunDirectory
from mlray.training.config import TrainerConfig
from mlray.training.model import Signature
from mlray.training.network import code_of, definition_of
from mlray.training.preparation import Columns, Prepared, instant, prepare
from mlray.training.preprocessing import kind
from mlray.training.progress import OnEpoch, OnStatus, shown
from mlray.training.run import Run
from mlray.training.task import BINARY, Task, kind_of
from mlray.training.tracking import Tracker, telling, tracked
from mlray.training.workers import Job, check_room, choose_gpu, cluster, fit


class TrainingData(Told, Protocol):
    """What is read of a training set."""

    @property
    def dataset(self) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A run whose data is ready, after `seconds`; `started` is of time.monotonic()."""

    name: str
    columns: Columns
    prepared: Prepared
    signature: Signature
    directory: RunDirectory
    started: float
    seconds: float


def train(
    config: TrainerConfig, ts: TrainingData, *, on_epoch: OnEpoch | None = None, on_status: OnStatus | None = None
) -> Run:
    """Trains on the training set and returns the best epoch's model and metrics.

    `on_epoch` is called on the driver, in its own thread, with the metrics of each epoch once it is on the disk;
    `on_status` about twice a second. Without either, see `progress.shown`.
    """
    have = cluster()
    gpu = choose_gpu(config.resources, have)
    check_room(config.resources, have)
    optimization.check(config.optimizer, config.schedule)
    definition_of(config.network.model, config.network.settings)
    with shown(None if on_epoch or on_status else Console(stderr=True)) as told:
        begun = begin(config, ts, model=config.network.model, code_sha256=code_of(config.network.model))
        job = Job(
            config=config,
            preprocessing=begun.prepared.preprocessing,
            signature=begun.signature,
            parts=begun.prepared.parts,
            directory=begun.directory,
        )
        with tracking(begun, config, begun.directory.history) as tracker:
            found = fit(job, gpu, telling(tracker, on_epoch or told[0]), on_status or told[1])
            return finished(begun, config, ts, found | {"seconds_data": begun.seconds}, tracker=tracker)


def begin(
    config: Any, ts: TrainingData, *, model: str, task: str | None = None, code_sha256: str | None = None
) -> Begun:
    """Claims the run's directory and prepares its data. config: that of any trainer; model, code_sha256: as the
    signature has them; task: where it is not for the configuration and the label to say.
    """
    started = time.monotonic()
    columns = read_columns(ts, config, task)
    name = config.run or f"{ts.service}-{uuid.uuid4().hex[:8]}"
    directory = RunDirectory(Path(config.storage).absolute() / name)
    code = {"code_sha256": code_sha256} if code_sha256 else {}
    directory.claim({**config.identity(), **code, "features": list(columns.kinds), "fingerprint": ts.fingerprint})
    prepared = prepare(ts.dataset.select_columns(columns.names()), columns, config)
    inputs = {feature: str(ts.schema.field(feature).type) for feature in columns.kinds}
    return Begun(
        name=name,
        columns=columns,
        prepared=prepared,
        signature=Signature.of(inputs, columns.label, prepared.task, model=model, code_sha256=code_sha256),
        directory=directory,
        started=started,
        seconds=time.monotonic() - started,
    )


def tracking(begun: Begun, config: Any, history: Callable[[], History]) -> AbstractContextManager[Tracker | None]:
    """Tells a tracking server of the run, where the configuration names one; see tracking.py."""
    settings = {name: value for name, value in config.to_json().items() if name not in ("tracking", "storage", "run")}
    return tracked(config.tracking, begun.directory.path, settings, history)


def finished(
    begun: Begun,
    config: Any,
    ts: TrainingData,
    metrics: Mapping[str, float],
    history: History | None = None,
    tracker: Tracker | None = None,
) -> Run:
    """The run, whose model lies in its directory; its gate is written beside it. history: where the directory has none
    of epochs.
    """
    directory, columns = begun.directory, begun.columns
    gate = evaluation(metrics, begun.prepared.task, config.gates.min_auc)
    write_gates(directory.model, begun.name, {"evaluation": gate})
    run = Run(
        id=begun.name,
        metrics={**metrics, **counts(begun.prepared), "seconds": time.monotonic() - begun.started},
        checkpoint=str(directory.model),
        service=ts.service,
        service_hash=ts.service_hash,
        service_definition=ts.service_definition,
        sources=dict(ts.sources),
        fingerprint=ts.fingerprint,
        spine=describe(begun.prepared, columns),
        features=tuple(columns.kinds),
        label=columns.label,
        config=config.to_json(),
        provenance=capture() | {"training_set": ts.recorded, "content": spelt([begun.prepared.statistics.content])},
        history=directory.history() if history is None else history,
    )
    if tracker is not None:
        tracker.run = run
    return run


def read_columns(ts: TrainingData, config: Any, task: str | None = None) -> Columns:
    """The features that the model reads, the label and the time; refused where they cannot be trained on."""
    if ts.label is None:
        raise DefinitionError("the training set has no label; pass label=... to build_training_set")
    if ts.label in ts.features:
        raise DefinitionError(
            f"label '{ts.label}' is among the features, so the model would read the answer; "
            f"take it out of service '{ts.service}'"
        )
    ignored, weight = config.sampling.ignore, config.sampling.weight
    for setting, named in (("ignore", ignored), ("allow_null", config.sampling.allow_null)):
        for name in named:
            if name not in ts.features:
                raise SchemaError.missing_column(f"training: {setting}", name, "the features", ts.features)
    used = [name for name in ts.features if name not in ignored]
    for name in (*used, ts.label, ts.timestamp, *([weight] if weight else [])):
        if name not in ts.schema.names:
            raise SchemaError.missing_column("training", name, "the training set", ts.schema.names)
    label_type = ts.schema.field(ts.label).type
    known = kind_of(ts.label, label_type, task or config.task)
    if not used:
        raise DefinitionError(f"service '{ts.service}' has no feature left to train on; ignored are {ignored}")
    if ts.timestamp in used:
        raise DefinitionError(f"the spine's time '{ts.timestamp}' is among the features; take it out of the service")
    if weight in used or weight == ts.label:
        raise DefinitionError(
            f"weight '{weight}' is a feature or the label; name another column, or ignore the feature"
        )
    if weight and kind(weight, ts.schema.field(weight).type) != "number":
        raise SchemaError(f"weight '{weight}' is {ts.schema.field(weight).type}; it must be a number")
    kinds = {name: kind(name, ts.schema.field(name).type) for name in used}
    service = pinned(ts.service_definition)
    return Columns(
        kinds=kinds,
        label=ts.label,
        timestamp=ts.timestamp,
        weight=weight,
        task=known,
        label_type=label_type,
        origins=origins(service) if service else {},
    )


def evaluation(metrics: Mapping[str, float], task: Task, min_auc: float) -> Gate:
    """The gate: whether the model is as good on the test rows as it has to be. No AUC, as of one class only, is not.
    Of a task other than a binary one the value is its metric, and nothing is asked for but a number.
    """
    value = metrics[f"test_{task.metric}"]
    if task.kind == BINARY:
        return Gate(passed=value >= min_auc, value=value, threshold=min_auc)
    return Gate(passed=math.isfinite(value), value=value)


def counts(prepared: Prepared) -> dict[str, float]:
    rows = {f"rows_{name}": float(part.rows) for name, part in prepared.parts.items()}
    return rows | {f"unseen_{name}": float(count) for name, count in prepared.unseen.items() if name != "train"}


def describe(prepared: Prepared, columns: Columns) -> str:
    seen = prepared.statistics
    rows = sum(seen.rows.values())
    return f"{rows} rows, {columns.timestamp} from {instant(seen.first)} to {instant(seen.last)}"
