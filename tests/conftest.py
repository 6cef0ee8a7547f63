"""One small Ray cluster for the whole session; its environment is set before Ray is imported anywhere."""

import os
from collections.abc import Iterator
from typing import Any

TEST_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_num_workers_soft_limit": "10",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "NUMBA_DISABLE_JIT": "1",
}
os.environ.update(TEST_ENVIRONMENT)
os.environ.pop("RAY_ADDRESS", None)

import pytest  # noqa: E402

from tests.redis_server import redis_cluster_url, redis_url  # noqa: E402, F401


@pytest.fixture(scope="session")
def ray_cluster(ray_nodes: Any) -> str:
    """The address of a running cluster with 4 logical CPUs, joined by this process in namespace `mlray`."""
    address: str = ray_nodes.address
    return address


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Any]:
    """The same cluster, as something that nodes can be added to."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "object_store_memory": 1 << 30, "include_dashboard": False,
            "no_monitor": True, "include_log_monitor": False, "_system_config": {"health_check_period_ms": 1000}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, namespace="mlray", log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
