"""What the tasks of the offline engine have in common; running many of them, a few at a time; and waiting inside one
without keeping its CPU from others.

A few at a time, for a node starts a worker for each task that waits in its queue, up to its limit of idle ones, though
there is no CPU that it could ever use.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mlray._ray_compat import mlray_errors
from mlray.allocator import keep_freed_memory

What = TypeVar("What")
RETRIES = 8
"""How often a task is tried again whose worker or node died: nodes come and go, but what never fits must end."""
_PATIENCE = 2.0
"""Seconds in which what is not lost mostly arrives."""
_PER_CPU = 2
"""Tasks that are started and not done, for each CPU of the cluster."""


def task(function: Callable[..., Any]) -> Any:
    """`function` as a Ray task of one CPU, which is tried again where its worker or node dies."""

    @wraps(function)
    def run(*given: Any) -> Any:
        keep_freed_memory()
        return function(*given)

    return ray.remote(num_cpus=1, max_retries=RETRIES)(run)


def as_done(start: Callable[[What], Any], whats: Sequence[What]) -> Iterator[tuple[What, Any]]:
    """Starts a task for each, and gives each with its value, as they come. Where one fails, or the caller stops, no
    more are started, and what runs has ended before the caller goes on.

    Nothing is cancelled: a driver that cancels a task just as Ray sends it to a worker is aborted (Ray 2.60,
    `Tried to complete task that was not pending`).
    """
    waiting = list(reversed(whats))
    running: dict[Any, What] = {}
    try:
        while waiting or running:
            room = _at_once() - len(running) if waiting else 0
            for what in [waiting.pop() for _ in range(min(room, len(waiting)))]:
                running[start(what)] = what
            (ref,), _ = ray.wait(list(running), num_returns=1)
            with mlray_errors():
                value = ray.get(ref)
            yield running.pop(ref), value
    except (Exception, GeneratorExit):  # an interrupted caller does not wait
        if running:
            ray.wait(list(running), num_returns=len(running), fetch_local=False)
        raise


class Lane:
    """Tasks on their way, few at a time. Where one failed, its error is raised as soon as that is seen, and no more are
    started; what runs goes on.
    """

    def __init__(self, note: Callable[[int], None] = lambda _: None) -> None:
        """note: told how many are done."""
        self._note, self._done = note, 0
        self._running: dict[Any, bool] = {}

    def start(self, call: Callable[[], Any], told: int | None = -1) -> Any:
        """What `call` gives, as soon as there is room: a reference, or several of one task. told: which of several is
        small, so that it can be looked at whether the task failed; None: none is.
        """
        while len(self._running) >= _at_once():
            self._wait()
        given = call()
        self._running[given[told or 0] if isinstance(given, list) else given] = told is not None
        return given

    def end(self) -> None:
        """Waits for all."""
        while self._running:
            self._wait()

    def _wait(self) -> None:
        (ref,), _ = ray.wait(list(self._running), num_returns=1, fetch_local=False)
        if self._running.pop(ref):
            with mlray_errors():
                ray.get(ref)
        self._done += 1
        self._note(self._done)


def started(calls: Iterable[Callable[[], Any]], told: int | None = -1) -> list[Any]:
    """What each call gives, in a lane of their own; the last may still run."""
    lane = Lane()
    return [lane.start(call, told) for call in calls]


def consumed(items: list[What]) -> Iterator[What]:
    """The items, each let go of as it is given: what it refers to goes from the object store once it is used."""
    items.reverse()
    while items:
        yield items.pop()


def fetched(refs: Sequence[Any]) -> list[Any]:
    """The values of different references that were handed to a task, not as its arguments.

    What was on a node that died is computed again, for which a CPU must be free. A task that waits for a lost object in
    `ray.get` keeps its CPU (Ray 2.60): as many as there are CPUs would wait for ever. One that waits for another task
    does not, so one that needs no CPU is asked to tell when all is there.
    """
    missing = ray.wait(list(refs), num_returns=len(refs), timeout=_PATIENCE)[1] if refs else []
    if missing:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        ray.get(_arrived.options(scheduling_strategy=here).remote(*missing))
    return list(ray.get(list(refs)))


@ray.remote(num_cpus=0, max_retries=RETRIES)
def _arrived(*_: Any) -> None:
    """Runs when its arguments are there."""


def _at_once() -> int:
    return _PER_CPU * _cpus(int(time.monotonic()))


@lru_cache(maxsize=1)
def _cpus(second: int) -> int:  # noqa: ARG001 - a cluster grows and shrinks, but asking takes a millisecond
    resources: Any = ray.cluster_resources  # its annotation is missing
    return max(int(resources().get("CPU", 1)), 1)
