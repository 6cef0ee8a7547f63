"""What a task of the offline engine finds in its worker, and how many of them wait at a time."""

import resource
from functools import partial
from typing import Any

import numpy as np
import pytest
import ray

from mlray.offline.tasks import started, task

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


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("returns", [1, 2])
def test_few_tasks_are_started_before_those_ahead_of_them_have_ended(returns: int) -> None:
    @task
    def numbers(first: int) -> Any:
        return first if returns == 1 else [first, first + 1]

    running: list[Any] = []
    most = 0

    def start(number: int) -> Any:
        nonlocal most
        found = numbers.options(num_returns=returns).remote(number)
        running.append(found if returns == 1 else found[-1])
        ended, _ = ray.wait(running, num_returns=len(running), timeout=0)
        most = max(most, len(running) - len(ended))
        return found

    found = started(partial(start, number) for number in range(40))
    assert [ray.get(one) for one in found] == [n if returns == 1 else [n, n + 1] for n in range(40)]
    assert most <= 2 * ray.cluster_resources()["CPU"]
