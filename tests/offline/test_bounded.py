"""However large the table, the memory of a process stays within bounds; what does not fit into the store is spilled."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

import market
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from builder import Builder, started
from deltalake import DeltaTable, write_deltalake
from ray.cluster_utils import Cluster

import mlray as ml
from mlray.features.rows import events
from mlray.features.view import BoundView
from mlray.offline.sliced import Pieces, answer_part

LITTLE, MUCH = 100_000, 800_000
PER_PART = LITTLE // 2
SCALE = {"plan.BROADCAST_ROWS": 0, "plan._ROWS_PER_PART": PER_PART, "layout.ROWS": PER_PART,
         "exchange.GROUP_BYTES": 8 << 20, "relayout.GROUP_BYTES": 8 << 20}
"""As if memory were a twentieth: parts of so many rows, tasks that read so many bytes."""
STORE, BOUND = 80 << 20, 256 << 20
"""Bytes of the object store; and of any process, of which an idle one has 150 MiB."""
MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "65536", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""What `mlray.cluster` sets: what is freed goes back to the system."""


@dataclass
class Market:
    """A cluster whose store is smaller than the larger table, and a process that builds."""

    raylet: int
    builder: Builder
    folder: Path

    def build(self, service: str, join: str) -> pa.Table:
        path = self.folder / f"{service} {join}"
        if join == "co-partitioned":
            self.builder.ask(layout=service, service=service)
            assert "laid_out" in self.builder.outcome()
        self.builder.ask(spine="spine", join=join, service=service, path=str(path))
        assert "written" in self.builder.outcome()
        return DeltaTable(path).to_pyarrow_table()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("bounded")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in MEMORY.items():
            patch.setenv(name, value)
        head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False, "no_monitor": True,
                "include_log_monitor": False, "object_spilling_directory": str(folder / "spilled")}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        (raylet,) = cluster.head_node.all_processes["raylet"]
        with started(cluster.address, folder / "lake", SCALE) as builder:
            write_tables(folder / "lake")
            yield Market(raylet.process.pid, builder, folder)
        cluster.shutdown()


def write_tables(lake: Path) -> None:
    rng = np.random.default_rng(1)
    for name, rows in (("little", LITTLE), ("much", MUCH)):
        for _ in range(0, rows, LITTLE // 2):
            write_deltalake(lake / name, numbers(rng, LITTLE // 2), mode="append")
    late = pa.array([market.START + 5 * market.DAY] * 30_000, pa.timestamp("us", tz="UTC"))
    write_deltalake(lake / "spine", pa.table({"user_id": np.arange(30_000), "timestamp": late}))


def numbers(rng: np.random.Generator, rows: int) -> pa.Table:
    times = pa.array(market.START + rng.integers(0, 4 * market.DAY, rows), pa.timestamp("us", tz="UTC"))
    values = {name: rng.integers(-(2**40), 2**40, rows) for name in market.NUMBERS}
    return pa.table({"user_id": rng.integers(0, 20_000, rows), "at": times, **values})


@dataclass
class Peak:
    """The largest of the processes under some others, and of a folder, in bytes."""

    process: int = 0
    folder: int = 0
    of: dict[str, int] = field(default_factory=dict)


@contextmanager
def watched(roots: list[int], folder: Path) -> Iterator[Peak]:
    """Looks every 50 ms."""
    peak, done = Peak(), Event()

    def look() -> None:
        while not done.wait(0.05):
            for process in family(roots):
                with suppress(OSError, IndexError):  # it has ended
                    name = Path(f"/proc/{process}/cmdline").read_text().split("\0")[0]
                    peak.of[name] = max(peak.of.get(name, 0), proportional(process))
            peak.folder = max(peak.folder, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
        peak.process = max(peak.of.values())

    watcher = Thread(target=look)
    watcher.start()
    yield peak
    done.set()
    watcher.join()


def family(roots: list[int]) -> list[int]:
    """The processes and their children."""
    found = list(roots)
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if int(Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()[1]) in roots:
                found.append(int(name))
    return found


def proportional(process: int) -> int:
    """The memory of a process; what it shares with others is divided among them."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


@pytest.mark.parametrize("join", ["shuffle", "co-partitioned"])
def test_the_memory_of_a_process_does_not_grow_with_the_table(join: str, shop: Market) -> None:
    peaks = {}
    for service in ("little", "much"):
        with watched([shop.raylet, shop.builder.process.pid], shop.folder / "spilled") as peak:
            rows = shop.build(service, join)
        peaks[service] = peak
        check(rows, DeltaTable(shop.folder / "lake" / service).to_pyarrow_table())
    assert peaks["much"].folder > 0, "nothing was spilled"
    assert max(peak.process for peak in peaks.values()) < BOUND, peaks


def check(rows: pa.Table, table: pa.Table) -> None:
    """Every user has the sums of the whole table."""
    sums = table.group_by("user_id").aggregate([(name, "sum") for name in market.NUMBERS]).sort_by("user_id")
    names = ["user_id", *(f"{name}_sum_lifetime" for name in market.NUMBERS)]
    found = rows.select(names).filter(pc.is_in(rows["user_id"], sums["user_id"])).sort_by("user_id")
    assert found == sums.rename_columns(names)


HOT = ml.FeatureView(
    "hot",
    entity=ml.Entity("user", keys=["user_id"]),
    source=ml.DeltaSource("hot", path="hot", timestamp="at"),
    features=[ml.Sum(column, windows=[ml.hours(1)]) for column in market.NUMBERS],
)


def hot(limit: int) -> tuple[int, str]:
    """By how many bytes this process grows that answers a thousand questions about one key of a million rows, and a
    digest of the answers.
    """
    rng = np.random.default_rng(1)
    table = numbers(rng, 1_000_000).set_column(0, "user_id", pa.array(np.zeros(1_000_000, dtype=np.int64)))
    spine = pa.table({"user_id": np.zeros(1_000, dtype=np.int64), "timestamp": table["at"][:1_000]})
    rows = events(HOT, table)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_of_this()
    found = answer_part(BoundView(HOT), Pieces.of(rows), spine, "timestamp", limit)
    return peak_of_this() - before, repr(found.to_pydict())


def peak_of_this() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def test_the_history_of_one_key_is_answered_in_slices() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as fresh:
        (whole, answers), (sliced, same) = fresh.map(hot, [10**9, 50_000])
    assert same == answers
    assert sliced < 0.6 * whole, (sliced, whole)
