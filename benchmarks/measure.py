"""Wall time, processor time, memory and disk reads of this process and all its descendants: Ray's daemons and workers
are such.

Looking at memory takes time (the kernel walks page tables), so a run is either timed or watched, never both.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY = 0.05
"""Seconds between two looks at memory."""


@dataclass(frozen=True)
class Cost:
    """seconds: wall; cpu: processor seconds of all processes; read: bytes that came from the disk;
    process: peak bytes of the largest process, with its share of what it maps from Ray's object store; own: the same
    without that; store: peak bytes of the object store that are mapped at all; total: peak bytes of all together;
    each: `own` of every process by its id. Memory 0: not watched.
    """

    seconds: float
    cpu: float
    read: int = 0
    process: int = 0
    total: int = 0
    own: int = 0
    store: int = 0
    each: Mapping[int, int] = field(default_factory=dict)


Run = Callable[[Path, bool], Cost]
"""One run: into this folder, watching memory or not. A peer's process always knows its own peak."""


@dataclass(frozen=True)
class Measured:
    """One contestant. cold: its first run; times: seconds of the warm runs; warm: their median, with the peaks of
    all runs that were watched; out: the folder with the output of the last run.
    """

    cold: Cost
    warm: Cost
    times: tuple[float, ...]
    out: Path


def interleaved(
    contestants: Mapping[str, Run], inputs: Path, folder: Path, rounds: int, anew: Callable[[], None] = lambda: None
) -> dict[str, Measured]:
    """Every contestant in turn: once cold, `rounds` times warm, and where memory is still unknown, once watched, after
    `anew` has ended the processes that hold what others left.
    """
    runs: dict[str, list[Cost]] = {who: [] for who in contestants}
    for number in range(rounds + 1):
        for who, run in contestants.items():
            if number == 0:
                forget(inputs)
            runs[who].append(run(_emptied(folder / who), False))
    watched = {}
    for who in (who for who in contestants if not runs[who][0].process):
        anew()
        watched[who] = contestants[who](_emptied(folder / who), True)
    return {who: _measured(costs, watched.get(who), folder / who) for who, costs in runs.items()}


def _measured(costs: list[Cost], watched: Cost | None, out: Path) -> Measured:
    cold, *warm = costs
    seen = [*warm, watched] if watched else warm
    middle = Cost(
        seconds=median(c.seconds for c in warm),
        cpu=median(c.cpu for c in warm),
        read=round(median(c.read for c in warm)),
        process=max(c.process for c in seen),
        total=max(c.total for c in seen),
        own=max(c.own for c in seen),
        store=max(c.store for c in seen),
    )
    return Measured(cold, middle, tuple(c.seconds for c in warm), out)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measured(run: Callable[[], object], watch: bool = False) -> Cost:
    """What `run` costs this process and its descendants."""
    memory = _Memory()
    with memory.watched() if watch else _nothing():
        cpu, read, start = _cpu(), _read(), time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        peaks = (memory.process, memory.total, memory.own, memory.store, memory.each)
        return Cost(seconds, _cpu() - cpu, _read() - read, *peaks)


def forget(folder: Path) -> None:
    """Asks the kernel to drop the folder's files from its page cache: the next read goes to the disk."""
    for file in (f for f in folder.rglob("*") if f.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # a page that is not yet on the disk cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


class _Memory:
    """Peaks of proportional set sizes: a page that several processes share is counted once, in parts."""

    def __init__(self) -> None:
        self.process = self.total = self.own = self.store = 0
        self.each: dict[int, int] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        while not done.wait(_EVERY):
            found = {pid: _proportional(pid) for pid in _family()}
            sizes = list(found.values())
            self.each |= {pid: max(size - mapped, self.each.get(pid, 0)) for pid, (size, mapped) in found.items()}
            self.process = max(self.process, *(size for size, _ in sizes))
            self.own = max(self.own, *(size - mapped for size, mapped in sizes))
            self.total = max(self.total, sum(size for size, _ in sizes))
            self.store = max(self.store, sum(mapped for _, mapped in sizes))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _family() -> list[int]:
    """This process and its descendants."""
    children: dict[int, list[int]] = {}
    for pid in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
        if stat := _stat(pid):
            children.setdefault(int(stat[1]), []).append(pid)
    found = [os.getpid()]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, from the state on; none where the process has ended."""
    return _text(pid, "stat").rpartition(")")[2].split()


def _cpu() -> float:
    """Processor seconds so far, of processes that have ended too: their parents were charged."""
    return sum(int(tick) for pid in _family() for tick in _stat(pid)[11:15]) / _TICKS


def _read() -> int:
    return sum(_number(_text(pid, "io"), "\nread_bytes:") for pid in _family())


def _proportional(pid: int) -> tuple[int, int]:
    """(bytes; those of them that lie in shared memory)."""
    rollup = _text(pid, "smaps_rollup")
    return _number(rollup, "\nPss:") << 10, _number(rollup, "\nPss_Shmem:") << 10


def _number(text: str, label: str) -> int:
    return int(text.partition(label)[2].split(maxsplit=1)[0]) if label in text else 0


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""
