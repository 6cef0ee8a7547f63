"""Starts a training on the cluster and waits for its end: prepare the data, run the loop on Ray Train, make the Run.

The workers read the prepared blocks straight from the object store. Handing them over as Ray Train `datasets` would
start one more actor, which cost 6 s of a 23 s start on two cores, for blocks that are already cut and ordered.
"""

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from mlray.errors import ConfigError, DefinitionError, SchemaError, TrainingFailed
from mlray.registry.gates import Gate, write_gates
from mlray.registry.provenance import capture
from mlray.training.checkpoint import RunDirectory
from mlray.training.feed import Part
from mlray.training.group import Group
from mlray.training.model import Signature
from mlray.training.preparation import Columns, Prepared, instant, prepare
from mlray.training.preprocessing import Preprocessing, kind
from mlray.training.run import Run
from mlray.training.trainer import Trainer

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5

OnEpoch = Callable[[Mapping[str, float]], None]


class TrainingData(Protocol):
    """What is read of a training set."""

    @property
    def dataset(self) -> Any: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def features(self) -> list[str]: ...
    @property
    def label(self) -> str | None: ...
    @property
    def timestamp(self) -> str: ...
    @property
    def sources(self) -> dict[str, int]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def service_hash(self) -> str: ...
    @property
    def service_definition(self) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every worker is given."""

    config: Trainer.Config
    preprocessing: Preprocessing
    signature: Signature
    parts: dict[str, Part]
    directory: RunDirectory


def log_epoch(metrics: Mapping[str, float]) -> None:
    logger.info(
        "epoch %d: loss %.4f, validation AUC %.4f, %.0f rows/s",
        metrics["epoch"],
        metrics["train_loss"],
        metrics["validation_auc"],
        metrics["rows_per_second"],
    )


def train(config: Trainer.Config, ts: TrainingData, *, on_epoch: OnEpoch = log_epoch) -> Run:
    """Trains on the training set and returns the best epoch's model and metrics.

    `on_epoch` is called on the driver, in its own thread, with the metrics of each epoch as it ends.
    """
    began = time.monotonic()
    columns = read_columns(ts, config)
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    use_gpu = choose_gpu(config, cluster)
    check_resources(config, cluster)
    name = config.run or f"{ts.service}-{uuid.uuid4().hex[:8]}"
    directory = RunDirectory(Path(config.storage).absolute() / name)
    directory.claim({**config.identity(), "features": list(columns.kinds), "fingerprint": ts.fingerprint})
    prepared = prepare(ts.dataset.select_columns(columns.names()), columns, config)
    job = Job(
        config=config,
        preprocessing=prepared.preprocessing,
        signature=Signature(inputs={f: str(ts.schema.field(f).type) for f in columns.kinds}, label=columns.label),
        parts=prepared.parts,
        directory=directory,
    )
    metrics = fit(job, use_gpu, on_epoch)
    metrics |= counts(prepared) | {"seconds": time.monotonic() - began}
    write_gates(directory.model, name, {"evaluation": evaluation(metrics["test_auc"], config)})
    return Run(
        id=name,
        metrics=metrics,
        checkpoint=str(directory.model),
        service=ts.service,
        service_hash=ts.service_hash,
        service_definition=ts.service_definition,
        sources=dict(ts.sources),
        fingerprint=ts.fingerprint,
        spine=describe(prepared, columns),
        features=tuple(columns.kinds),
        label=columns.label,
        config=config.to_json(),
        provenance=capture(),
        history=directory.history(),
    )


def read_columns(ts: TrainingData, config: Trainer.Config) -> Columns:
    """The features that the model reads, the label and the time; refused where they cannot be trained on."""
    if ts.label is None:
        raise DefinitionError("the training set has no label; pass label=... to build_training_set")
    if ts.label in ts.features:
        raise DefinitionError(
            f"label '{ts.label}' is among the features, so the model would read the answer; "
            f"take it out of service '{ts.service}'"
        )
    for name in config.ignore:
        if name not in ts.features:
            raise SchemaError.missing_column("Trainer.Config(ignore=...)", name, "the features", ts.features)
    used = [name for name in ts.features if name not in config.ignore]
    for name in (*used, ts.label, ts.timestamp):
        if name not in ts.schema.names:
            raise SchemaError.missing_column("training", name, "the training set", ts.schema.names)
    if kind(ts.label, ts.schema.field(ts.label).type) != "number":
        raise SchemaError(f"label '{ts.label}' is {ts.schema.field(ts.label).type}; make it a boolean, or 0 and 1")
    if not used:
        raise DefinitionError(f"service '{ts.service}' has no feature left to train on; ignored are {config.ignore}")
    if ts.timestamp in used:
        raise DefinitionError(f"the spine's time '{ts.timestamp}' is among the features; take it out of the service")
    kinds = {name: kind(name, ts.schema.field(name).type) for name in used}
    return Columns(kinds=kinds, label=ts.label, timestamp=ts.timestamp)


def choose_gpu(config: Trainer.Config, have: Mapping[str, float]) -> bool:
    """Whether each worker gets a GPU; ConfigError where one is asked for and not there."""
    gpus = have.get("GPU", 0)
    if config.device == "cuda" and gpus < config.workers:
        raise ConfigError(
            f"training: device='cuda' needs a GPU for each of {config.workers} workers and the cluster has {gpus:g}; "
            "lower workers, or pass device='cpu'"
        )
    return config.device != "cpu" and gpus >= config.workers


def check_resources(config: Trainer.Config, have: Mapping[str, float]) -> None:
    """The workers hold their CPUs throughout; a cluster that is too small would make them wait for ever."""
    needed = config.workers * config.cpus_per_worker
    cpus = have.get("CPU", 0)
    if needed > cpus or cpus < 1:
        fitting = int(cpus / config.workers * 10) / 10
        raise ConfigError(
            f"training: {config.workers} workers of {config.cpus_per_worker:g} CPUs need {needed:g} and the cluster "
            f"has {cpus:g} (preparing the data needs 1 before that); "
            f"lower workers, pass cpus_per_worker={max(fitting, 0.1)}, or start Ray with more num_cpus"
        )


def fit(job: Job, use_gpu: bool, on_epoch: OnEpoch) -> dict[str, float]:
    """Runs the loop on the workers; the metrics that they agree on."""
    config = job.config
    loop: Any = run_worker
    trainer = TorchTrainer(
        loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=f"ray-{uuid.uuid4().hex[:8]}",
            storage_path=str(job.directory.path),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
    )
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(job.directory, on_epoch, over), daemon=True)
    watcher.start()
    try:
        result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingFailed(
            f"the workers of run '{job.directory.path.name}' were lost more than {config.max_failures} times "
            f"(max_failures), after epoch {job.directory.latest()}; the last reason: {error}; "
            f"Trainer.Config(run='{job.directory.path.name}') goes on from there"
        ) from error
    finally:
        over.set()
        watcher.join()
    returned: dict[str, Any] = result.return_value
    if "error" in returned:
        raise TrainingFailed(returned["error"])
    return returned


def run_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """The loop in one worker."""
    job: Job = settings["job"]
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size(), get_device())
    if group.device.type == "cpu":
        torch.set_num_threads(1)
    record_workers(job.directory, group)
    trainer = Trainer(
        job.config,
        job.preprocessing,
        job.signature,
        {name: part.stream for name, part in job.parts.items()},
        {name: part.rows for name, part in job.parts.items()},
        job.directory,
        group=group,
        report=ray.train.report,
    )
    return outcome(trainer)


def outcome(trainer: Trainer) -> dict[str, Any]:
    """The metrics, or {"error": text} of what would fail again the same way: Ray starts anew after what raises."""
    try:
        return dict(trainer.train())
    except TrainingFailed as error:
        return {"error": str(error)}


def record_workers(directory: RunDirectory, group: Group) -> None:
    """One line of workers.jsonl; what an earlier, interrupted start left half-written goes."""
    pids = group.gather(np.array([[float(os.getpid())]]), group.world)[0]
    if group.rank == 0:
        directory.tidy()
        line = {"pids": [int(pid) for pid in pids], "device": str(group.device), "after_epoch": directory.latest()}
        with (directory.path / "workers.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def watch(directory: RunDirectory, on_epoch: OnEpoch, over: threading.Event) -> None:
    """Calls `on_epoch` once for each epoch that is committed after the start, until `over`."""
    told = len(directory.history())
    while True:
        last_look = over.wait(PROGRESS_SECONDS)
        for metrics in directory.history()[told:]:
            on_epoch(metrics)
            told += 1
        if last_look:
            return


def evaluation(auc: float, config: Trainer.Config) -> Gate:
    """The gate: whether the model is as good on the test rows as it has to be. No AUC, as of one class only, is not."""
    return Gate(passed=auc >= config.min_auc, value=auc, threshold=config.min_auc)


def counts(prepared: Prepared) -> dict[str, float]:
    rows = {f"rows_{name}": float(part.rows) for name, part in prepared.parts.items()}
    return rows | {f"unseen_{name}": float(count) for name, count in prepared.unseen.items() if name != "train"}


def describe(prepared: Prepared, columns: Columns) -> str:
    seen = prepared.statistics
    rows = sum(seen.rows.values())
    return f"{rows} rows, {columns.timestamp} from {instant(seen.first)} to {instant(seen.last)}"
