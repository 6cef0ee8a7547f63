"""What a task of the offline engine finds in its worker, and how many of them wait at a time."""

import asyncio
import resource
from functools import partial
from typing import Any

import numpy as np
import pytest
import ray

from mlray.errors import SchemaError
from mlray.offline.tasks import Lane, consumed, started, task

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


@ray.remote(num_cpus=0)
class Door:
    """Tasks wait at it until it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def opened(self) -> None:
        self.open.set()

    async def passed(self) -> None:
        await self.open.wait()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("returns", [1, 2])
def test_few_tasks_are_on_their_way_until_one_of_them_is_done(returns: int) -> None:
    @task
    def numbers(first: int, door: Any) -> Any:
        ray.get(door.passed.remote())
        return first if returns == 1 else [first, first + 1]

    most = 2 * int(ray.cluster_resources()["CPU"])
    begun: list[int] = []
    door: Any = Door.remote()

    def start(number: int) -> Any:
        begun.append(number)
        if len(begun) == most:
            door.opened.remote()
        assert number < most or ray.wait(found_so_far, timeout=0)[0]
        given = numbers.options(num_returns=returns).remote(number, door)
        found_so_far.append(given if returns == 1 else given[0])
        return given

    found_so_far: list[Any] = []
    found = started(partial(start, number) for number in range(40))
    assert [ray.get(one) for one in found] == [n if returns == 1 else [n, n + 1] for n in range(40)]


@pytest.mark.usefixtures("ray_cluster")
def test_where_a_task_fails_its_error_is_raised_and_no_more_are_started() -> None:
    @task
    def number(first: int) -> int:
        if first == 3:
            raise SchemaError("file 3 is broken")
        return first

    begun: list[int] = []

    def start(first: int) -> Any:
        begun.append(first)
        return number.remote(first)

    with pytest.raises(SchemaError, match="file 3 is broken"):
        started(partial(start, first) for first in range(1000))
    assert len(begun) < 1000


@pytest.mark.usefixtures("ray_cluster")
def test_a_lane_tells_how_many_are_done_until_all_are() -> None:
    told: list[int] = []
    lane = Lane(told.append)
    number = task(lambda n: n)
    refs = [lane.start(partial(number.remote, n)) for n in range(10)]
    lane.end()
    assert told == list(range(1, 11))
    assert ray.wait(refs, num_returns=10, timeout=0)[1] == []


def test_items_are_consumed_in_their_order_and_each_is_let_go_of_when_it_is_given() -> None:
    items = [1, 2, 3]
    assert [(item, list(reversed(items))) for item in consumed(items)] == [(1, [2, 3]), (2, [3]), (3, [])]
