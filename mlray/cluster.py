"""Joining Ray: the cluster that is there, or a local one."""

import logging
import os

import ray

from mlray.errors import ConfigError, RayUnavailable

NAMESPACE = "mlray"

# A small node that keeps only one idle worker per CPU ends Python processes after every rest and starts them again; so
# it does in each of Ray Data's own shuffles, whose tasks run in worker pools of their own (10,000 rows: 6-9 s instead
# of 0.5 s).
_LOCAL_ENVIRONMENT = {
    "RAY_num_workers_soft_limit": "10",
    # The start and the end of a training each wait for the controller's next look, which is every 2 s otherwise.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",  # a busy machine takes longer than the 30 s that Ray waits
    # A worker that waits for its next task gives back what it freed: 40 MB less in each of a dozen processes.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_LOCAL_CPUS = 3
"""Logical CPUs at least: training workers, data tasks and replicas then never wait for each other on a small
machine.
"""


_started_here = False


def join(address: str | None, local_cpus: int | None = None, local_store: int | None = None) -> None:
    """Connects this process once: to `address`, to RAY_ADDRESS, or to a new local cluster that ends with the
    process, of `local_cpus` logical CPUs (those of the machine, three at least) and an object store of `local_store`
    bytes (Ray's choice).
    """
    if ray.is_initialized():
        return
    global _started_here
    address = address or os.environ.get("RAY_ADDRESS")
    cpus = None
    if not address:
        address, cpus = "local", local_cpus or max(_LOCAL_CPUS, os.cpu_count() or 1)
        for name, value in _LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else every step of a dataset is told on stderr
    try:
        ray.init(
            address=address,
            num_cpus=cpus,
            object_store_memory=local_store if cpus else None,
            include_dashboard=False if cpus else None,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        raise RayUnavailable(
            f"Ray cannot be joined at address={address!r}: {error}; check RAY_ADDRESS or the setting 'ray', or look "
            "into /tmp/ray/session_latest/logs"
        ) from error
    _started_here = cpus is not None


def check_store(online: str) -> None:
    """ConfigError where the online store belongs to one machine and the joined cluster has several nodes."""
    if not online.startswith("lmdb://") or not ray.is_initialized():
        return
    alive = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    if alive > 1:
        raise ConfigError(
            f"online='{online}': LMDB belongs to one machine and this Ray cluster has {alive} nodes, which would each "
            "see another store; use redis://host:6379/0"
        )


def ends_with_process() -> bool:
    """Whether this process started the cluster that it has joined."""
    return _started_here and ray.is_initialized()
