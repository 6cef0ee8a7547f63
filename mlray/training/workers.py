"""The workers of a run: whether there is room for them, the loop in each, and what follows when one is lost.

The workers read the prepared blocks straight from the object store. Handing them over as Ray Train `datasets` would
start one more actor, which cost 6 s of a 23 s start on two cores, for blocks that are already cut and ordered.
"""

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import ray
import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.placement_group import PlacementGroup

from mlray.allocator import keep_freed_memory
from mlray.errors import ConfigError, MlrayError, TrainingFailed
from mlray.training.checkpoint import History, RunDirectory
from mlray.training.config import Resources, TrainerConfig
from mlray.training.feed import Part
from mlray.training.group import Group
from mlray.training.model import Signature
from mlray.training.preprocessing import Preprocessing
from mlray.training.progress import OnEpoch, OnStatus
from mlray.training.status import EVERY_SECONDS, Status
from mlray.training.trainer import Trainer

logger = logging.getLogger(__name__)

DATA_CPUS = 1
"""What the tasks need that prepare the data, and make a block again that was lost with its node."""
_LARGEST = 16 << 20
"""Bytes below which freed memory is kept: the tensors of a step, but not what comes once in a window of rows."""


class Watched(Protocol):
    """Where a run keeps what it has done."""

    @property
    def status(self) -> Path: ...
    def history(self) -> History: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every worker is given."""

    config: TrainerConfig
    preprocessing: Preprocessing
    signature: Signature
    parts: dict[str, Part]
    directory: RunDirectory

    def trainer(self, group: Group) -> Trainer:
        late = partial(check_remade, self.config.resources, group.world)
        return Trainer(
            self.config,
            self.preprocessing,
            self.signature,
            {name: partial(part.stream, late) for name, part in self.parts.items()},
            {name: part.rows for name, part in self.parts.items()},
            self.directory,
            group=group,
        )


def choose_gpu(resources: Resources, have: Mapping[str, float]) -> bool:
    """Whether each worker gets a GPU; ConfigError where one is asked for and not there."""
    gpus, workers = have.get("GPU", 0), resources.least
    if resources.device == "cuda" and gpus < max(workers, 1):
        raise ConfigError(
            f"training: device='cuda' needs a GPU for each of {max(workers, 1)} workers and the cluster has {gpus:g}; "
            "lower workers, or pass device='cpu'"
        )
    return resources.device == "cuda" or (resources.device == "auto" and gpus >= max(resources.most, 1))


def check_room(resources: Resources, have: Mapping[str, float]) -> None:
    """The workers hold their CPUs throughout: where none is left for the data, both would wait for ever."""
    workers, each, cpus = resources.least, resources.cpus_per_worker, have.get("CPU", 0)
    if workers * each + DATA_CPUS <= cpus:
        return
    fitting = int((cpus - DATA_CPUS) / max(workers, 1) * 10) / 10
    fewer = f"pass cpus_per_worker={fitting}, lower workers" if fitting > 0 else "pass workers=0"
    raise ConfigError(
        f"training: {workers} workers of {each:g} CPUs hold {workers * each:g}, their data needs {DATA_CPUS} beside "
        f"them (a lost block is made again), and the cluster has {cpus:g}; {fewer}, or start Ray with more num_cpus"
    )


def staff(resources: Resources, have: Mapping[str, float], gpu: bool) -> int | tuple[int, int]:
    """How many workers Ray Train is to start: of (least, most) no more than leave the data its CPU in this cluster."""
    if isinstance(resources.workers, int):
        return resources.workers
    fitting = int((have.get("CPU", 0) - DATA_CPUS) / resources.cpus_per_worker + 1e-9)
    fitting = min(fitting, int(have.get("GPU", 0))) if gpu else fitting
    return resources.least, max(resources.least, min(resources.most, fitting))


def check_remade(resources: Resources, workers: int) -> None:
    """For a worker that waits long for a block. RuntimeError where it was lost with its node and nobody can make it
    again, for the workers hold all CPUs that are left. That is no MlrayError: the workers are started anew, of an
    elastic run fewer of them.
    """
    held, cpus = workers * resources.cpus_per_worker, cluster().get("CPU", 0)
    if held + DATA_CPUS > cpus:
        raise RuntimeError(
            f"rows were lost with their node and cannot be made again: {workers} workers of "
            f"{resources.cpus_per_worker:g} CPUs hold {held:g} of the {cpus:g} that are left, and that takes "
            f"{DATA_CPUS}; add a node, or pass fewer workers, or workers=(least, most)"
        )


def cluster() -> dict[str, float]:
    """What there is of CPUs, GPUs and all else, free or not."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def fit(job: Job, gpu: bool, on_epoch: OnEpoch, on_status: OnStatus) -> dict[str, float]:
    """Runs the loop to its end; the metrics that the workers agree on. For what is called meanwhile see launch.py."""
    began = time.time()
    with watched(job.directory, on_epoch, on_status):
        found = here(job, gpu) if job.config.resources.most == 0 else on_cluster(job, gpu)
    if isinstance(found, MlrayError):
        raise found
    return found | {"seconds_start": starts(job.directory)[-1]["at"] - began}


def here(job: Job, gpu: bool) -> dict[str, float] | MlrayError:
    """The loop in this process, with one thread, as a worker has: the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(job, Group(device=torch.device("cuda" if gpu else "cpu")))
    finally:
        torch.set_num_threads(threads)


def on_cluster(job: Job, gpu: bool) -> dict[str, float] | MlrayError:
    """The loop on Ray Train's workers."""
    found: dict[str, float] | MlrayError = survived(
        lambda: torch_trainer(job, gpu),
        job.directory,
        job.config.resources,
        reached=lambda: f"step {job.directory.latest()}; Trainer.Config",
    )
    return found


def survived(
    begin: Callable[[], Any], directory: RunDirectory, resources: Resources, *, reached: Callable[[], str]
) -> Any:
    """What the first worker of a trainer of Ray Train's returns. Where its controller is lost, its workers end with it
    and `begin` makes another trainer; so it does where workers of an elastic run are lost, as many as fit then: Ray's
    own restart would take every CPU that is left. TrainingFailed where this happens too often; reached: how far the run
    is then, and the name of what configures it.
    """
    name, allowed = directory.path.name, resources.max_failures
    for _ in range(allowed + 1):
        try:
            return begin().fit().return_value
        except RayActorError as error:
            logger.warning("the controller of run '%s' was lost", name)
            release(directory)
            reason: Exception = error
        except ray.train.TrainingFailedError as error:
            reason = error
            if not resources.elastic:
                break
            logger.warning("workers of run '%s' were lost", name)
    raise TrainingFailed(
        f"the workers of run '{name}' were lost more than {allowed} times (max_failures), after "
        f"{reached()}(run='{name}') goes on from there; the last reason: {reason}"
    ) from reason


def release(directory: RunDirectory) -> None:
    """Gives back the CPUs of the workers whose controller was lost, and ends what is left of them. Ray's own cleaner
    asks the dashboard, which small clusters do not run.
    """
    held = starts(directory)[-1]["placement_group"] if directory.workers.exists() else None
    if held is not None:
        ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(held)))


def torch_trainer(job: Job, gpu: bool) -> TorchTrainer:
    resources = job.config.resources
    loop: Any = run_worker
    workers: Any = staff(resources, cluster(), gpu)
    return TorchTrainer(
        loop,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": resources.cpus_per_worker} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=f"ray-{uuid.uuid4().hex[:8]}",
            storage_path=str(job.directory.path),
            failure_config=failures(resources),
        ),
    )


def failures(resources: Resources) -> ray.train.FailureConfig:
    """What Ray Train survives by itself; of an elastic run `survived` does."""
    return ray.train.FailureConfig(max_failures=0 if resources.elastic else resources.max_failures)


def run_worker(settings: dict[str, Any]) -> dict[str, float] | MlrayError:
    """The loop in one worker."""
    keep_freed_memory(_LARGEST)
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size(), get_device())
    if group.device.type == "cpu":
        torch.set_num_threads(1)
    return run(settings["job"], group)


def run(job: Job, group: Group) -> dict[str, float] | MlrayError:
    """The metrics, or the error where the same would fail again: Ray starts anew after what is raised."""
    try:
        if group.in_trouble(None if job.directory.is_seen() else job.directory):
            raise job.directory.unseen()
        record_workers(job.directory, group)
        return job.trainer(group).train()
    except MlrayError as error:
        return error


def record_workers(directory: RunDirectory, group: Group) -> None:
    """One line of workers.jsonl; what an earlier, interrupted start left half-written goes."""
    pids = group.gather(np.array([[float(os.getpid())]]), group.world)[0]
    if group.rank == 0:
        directory.tidy()
        line = {
            "pids": [int(pid) for pid in pids],
            "device": str(group.device),
            "after_step": directory.latest(),
            "placement_group": reserved(),
            "at": time.time(),
        }
        with directory.workers.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def reserved() -> str | None:
    """The placement group of this worker, by its id."""
    found = ray.util.get_current_placement_group()
    return None if found is None else found.id.hex()


def starts(directory: RunDirectory) -> list[dict[str, Any]]:
    """What `record_workers` wrote, of every start of the run."""
    return [json.loads(line) for line in directory.workers.read_text().splitlines()]


@contextmanager
def watched(directory: Watched, on_epoch: OnEpoch, on_status: OnStatus) -> Iterator[None]:
    """Calls, in a thread of its own, `on_epoch` once for each epoch that is committed inside, `on_status` with news."""
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(directory, on_epoch, on_status, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def watch(directory: Watched, on_epoch: OnEpoch, on_status: OnStatus, over: threading.Event) -> None:
    told, heard = len(directory.history()), Status.read(directory.status)
    while True:
        last_look = over.wait(EVERY_SECONDS)
        status = Status.read(directory.status)
        if status is not None and status != heard:
            on_status(status)
            heard = status
        for metrics in directory.history()[told:]:
            on_epoch(metrics)
            told += 1
        if last_look:
            return
