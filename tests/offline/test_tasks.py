"""What a task of the offline engine finds in its worker."""

import resource
from typing import Any

import numpy as np
import pytest
import ray

from mlray.offline.tasks import task

PAGES = 512
"""Of two MiB: small enough for malloc to give them back at once, where it is told to (see `mlray.cluster`)."""


@pytest.mark.usefixtures("ray_cluster")
def test_columns_of_a_task_take_the_memory_of_those_before_them() -> None:
    @task
    def faults(columns: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(columns):
            np.ones(PAGES * 512)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    thrifty = {"env_vars": {"MALLOC_TRIM_THRESHOLD_": "65536"}}
    found: Any = ray.get(faults.options(runtime_env=thrifty).remote(40))
    assert found < 10 * PAGES
