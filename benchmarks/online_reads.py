"""The clock of benchmark D: reads one after another, in this process or in several of their own."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mlray as ml
from benchmarks.online_data import AT, SERVICES

LEAST, MOST, POOL = 5, 20_000, 200
"""Reads of one measurement, and how many different requests take turns."""

_ANSWERS_WITHIN = 300

Read = Callable[[Sequence[int]], object]


@dataclass(frozen=True)
class Reads:
    """took, cpu: nanoseconds of each read, on the wall and of the reading thread; seconds: wall, of all."""

    took: NDArray[np.int64]
    cpu: NDArray[np.int64]
    seconds: float

    @property
    def p50(self) -> float:
        """Microseconds."""
        return float(np.percentile(self.took, 50)) / 1e3

    @property
    def p99(self) -> float:
        """Microseconds."""
        return float(np.percentile(self.took, 99)) / 1e3

    @property
    def rate(self) -> float:
        """Reads per second."""
        return len(self.took) / self.seconds

    @property
    def cpu_each(self) -> float:
        """Processor microseconds of a read, the median."""
        return float(np.percentile(self.cpu, 50)) / 1e3

    def __add__(self, later: "Reads") -> "Reads":
        return self._with(later, self.seconds + later.seconds)

    def beside(self, other: "Reads") -> "Reads":
        """Both at the same time."""
        return self._with(other, max(self.seconds, other.seconds))

    def _with(self, other: "Reads", seconds: float) -> "Reads":
        return Reads(np.concatenate((self.took, other.took)), np.concatenate((self.cpu, other.cpu)), seconds)


def requests(keys: int, batch: int, seed: int = 0) -> list[list[int]]:
    """Different keys, at random."""
    rng = np.random.default_rng([seed, batch])
    return [rng.choice(keys, batch, replace=False).tolist() for _ in range(POOL if batch < 100 else POOL // 10)]


def timed(read: Read, pool: Sequence[Sequence[int]], seconds: float) -> Reads:
    """Reads the requests of the pool in turn for that long, after one that does not count."""
    read(pool[0])
    took, spent = list[int](), list[int]()
    clock, cpu = time.perf_counter_ns, time.thread_time_ns
    start = now = clock()
    end = start + int(seconds * 1e9)
    while (now < end or len(took) < LEAST) and len(took) < MOST:
        request = pool[len(took) % len(pool)]
        before, used = clock(), cpu()
        read(request)
        used, now = cpu() - used, clock()
        took.append(now - before)
        spent.append(used)
    return Reads(np.array(took), np.array(spent), (now - start) / 1e9)


def in_turns(
    contestants: Mapping[str, Read], pool: Sequence[Sequence[int]], seconds: float, rounds: int
) -> dict[str, Reads]:
    """`seconds` each in all, in `rounds` turns, so that a busy moment meets them all."""
    found: dict[str, Reads] = {}
    for _ in range(rounds):
        for who, read in contestants.items():
            turn = timed(read, pool, seconds / rounds)
            found[who] = found[who] + turn if who in found else turn
    return found


def to_python(platform: ml.Platform, workload: str) -> Callable[[Sequence[int]], list[dict[str, Any]]]:
    """The vectors of these keys as dicts."""
    service = SERVICES[workload]
    return lambda keys: platform.read_features(service, [{"id": key} for key in keys], at=AT).to_pylist()


def to_arrow(platform: ml.Platform, workload: str) -> Read:
    """The same as an Arrow table."""
    service = SERVICES[workload]
    return lambda keys: platform.read_features(service, [{"id": key} for key in keys], at=AT).to_arrow()


# Processes of their own


@dataclass(frozen=True)
class Job:
    """What each of several processes reads, and for how long; checked: keys whose answers it gives back."""

    lake: str
    online: str
    workload: str
    keys: int
    batch: int
    seconds: float
    checked: tuple[int, ...]

    def platform(self) -> ml.Platform:
        return ml.connect(ml.Settings(lake=self.lake, online=self.online))


class Processes:
    """Readers, and one process that loads. They are told what to do, say that they are ready, and begin when told."""

    def __init__(self, readers: Sequence[Connection], loader: Connection) -> None:
        self._readers, self._loader = readers, loader

    def reads(self, job: Job, readers: int) -> tuple[Reads, list[dict[int, dict[str, Any]]]]:
        """All reads of that many processes at the same time, and the answers of each by key."""
        those = self._readers[:readers]
        _begin(those, job)
        reads, answers = zip(*[_told(each) for each in those], strict=True)
        whole = reads[0]
        for one in reads[1:]:
            whole = whole.beside(one)
        return whole, list(answers)

    def while_loading(self, job: Job) -> tuple[Reads, list[dict[int, dict[str, Any]]], int]:
        """One process's reads while the views that it reads are materialized again and again, and how many times."""
        _begin([self._loader], job)
        reads, answers = self.reads(job, 1)
        self._loader.send("enough")
        return reads, answers, _told(self._loader)


@contextmanager
def processes(readers: int) -> Iterator[Processes]:
    """Spawned, with nothing of this process in them; they end with the block."""
    context, ours, children = get_context("spawn"), list[Connection](), []
    for work in [*[_reads] * readers, _loads]:
        here, there = context.Pipe()
        children.append(context.Process(target=_works, args=(work, there), daemon=True))
        ours.append(here)
    for child in children:
        child.start()
    try:
        yield Processes(ours[:-1], ours[-1])
    finally:
        for child in children:
            child.kill()
            child.join()


def _begin(those: Sequence[Connection], job: Job) -> None:
    for each in those:
        each.send(job)
    for each in those:
        _told(each)
    for each in those:
        each.send("begin")


def _told(by: Connection) -> Any:
    if not by.poll(_ANSWERS_WITHIN):
        raise TimeoutError(f"a process of the benchmark says nothing for {_ANSWERS_WITHIN} s")
    return by.recv()


def _works(work: Callable[[Job, Connection], Any], parent: Connection) -> None:
    while True:
        parent.send(work(parent.recv(), parent))


def _reads(job: Job, parent: Connection) -> tuple[Reads, dict[int, dict[str, Any]]]:
    read, keys = to_python(job.platform(), job.workload), list(job.checked)
    pool = requests(job.keys, job.batch, seed=1)
    read(pool[0])
    parent.send("ready")
    parent.recv()
    reads = timed(read, pool, job.seconds)
    return reads, dict(zip(keys, read(keys), strict=True))


def _loads(job: Job, parent: Connection) -> int:
    platform, times = job.platform(), 0
    parent.send("ready")
    parent.recv()
    while not parent.poll():
        platform.materialize(SERVICES[job.workload], until=AT)
        times += 1
    parent.recv()
    return times
