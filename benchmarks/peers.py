"""What others do with the same files: SQL for DuckDB, expressions for Polars, each in a process of its own.

A peer's process is started, imports and opens what it needs, and then measures itself: wall seconds, processor seconds
of all its threads, and the peak of its resident memory as the kernel counts it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from benchmarks import data
from benchmarks.data import relation
from benchmarks.measure import Cost, Run

AGGREGATES = {"sum": "sum(v)", "count": "count(v)", "mean": "avg(v)", "max": "max(v)"}


@dataclass(frozen=True)
class Job:
    """One run of a peer: which, over which lake, to which Parquet file."""

    peer: str
    lake: str
    out: str
    windows: tuple[str, ...] = tuple(data.WINDOWS)
    spine: str = "spine"


def runner(peer: str, lake: Path, **options: Any) -> Run:
    """Runs of a peer for `measure.interleaved`; the output is `set.parquet` in the run's folder."""
    return lambda out, _: run(Job(peer, str(lake), str(out / "set.parquet"), **options))


def run(job: Job) -> Cost:
    """The job in a new process."""
    environment = os.environ | {"POLARS_MAX_THREADS": str(os.cpu_count())}
    command = [sys.executable, "-m", "benchmarks.peers", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job.peer} ended with {done.returncode}: {done.stderr}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def as_of_sql(lake: Path, spine: str) -> str:
    """Benchmark A."""
    return f"""
        SELECT s.id, s.user_id, s.timestamp, {", ".join(f"p.{c}" for c in data.COLUMNS)}
        FROM {relation(lake / spine)} s ASOF LEFT JOIN {relation(lake / "purchases")} p
        ON s.user_id = p.user_id AND s.timestamp >= p.bought_at"""


def windows_sql(lake: Path, windows: tuple[str, ...]) -> str:
    """Benchmark B: ranges over the union of events and questions. A window ends one microsecond before the question."""
    cells = [f"{sql} OVER w{w} AS v0_{name}_{w}" for w in windows for name, sql in AGGREGATES.items()]
    ranges = [
        f"w{w} AS (PARTITION BY user_id ORDER BY t RANGE BETWEEN {data.WINDOWS[w]} PRECEDING AND 1 PRECEDING)"
        for w in windows
    ]
    return f"""
        SELECT * EXCLUDE (t, v) FROM (
            SELECT id, user_id, t, v, make_timestamptz(t) AS timestamp, {", ".join(cells)}
            FROM ({_union(lake)}) WINDOW {", ".join(ranges)}
        ) WHERE id IS NOT NULL"""


def windows_join_sql(lake: Path, windows: tuple[str, ...]) -> str:
    """Benchmark B another way: every pair of question and event of the longest window, grouped by question."""
    longest = max(data.WINDOWS[w] for w in windows)
    cells = [
        f"{sql} FILTER (e.t >= q.t - {data.WINDOWS[w]}) AS v0_{name}_{w}"
        for w in windows
        for name, sql in AGGREGATES.items()
    ]
    return f"""
        SELECT q.id, any_value(q.user_id) AS user_id, make_timestamptz(any_value(q.t)) AS timestamp, {", ".join(cells)}
        FROM (SELECT id, user_id, epoch_us(timestamp) AS t FROM {relation(lake / "spine")}) q
        LEFT JOIN (SELECT user_id, epoch_us(bought_at) AS t, v0 AS v FROM {relation(lake / "purchases")}) e
        ON q.user_id = e.user_id AND e.t < q.t AND e.t >= q.t - {longest}
        GROUP BY q.id"""


def taxi_sql(lake: Path, spine: str) -> str:
    """Benchmark C: two as-of joins."""
    features = "p.pickup_trips, p.pickup_mean_fare, d.dropoff_trips, d.dropoff_mean_tip"
    return f"""
        SELECT s.*, {features} FROM {relation(lake / spine)} s
        ASOF LEFT JOIN {relation(lake / "pickups")} p ON s.pickup_zone = p.zone AND s.timestamp >= p.over_at
        ASOF LEFT JOIN {relation(lake / "dropoffs")} d ON s.dropoff_zone = d.zone AND s.timestamp >= d.over_at"""


def _union(lake: Path) -> str:
    return f"""
        SELECT NULL::BIGINT AS id, user_id, epoch_us(bought_at) AS t, v0 AS v FROM {relation(lake / "purchases")}
        UNION ALL
        SELECT id, user_id, epoch_us(timestamp), NULL FROM {relation(lake / "spine")}"""


def _duckdb() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": os.cpu_count() or 1})
    connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
    return connection


def _write(sql: str, path: str) -> None:
    _duckdb().execute(f"COPY ({sql}) TO '{path}' (FORMAT parquet)")


def _copy(sql: Callable[[Job], str]) -> Callable[[Job], None]:
    return lambda job: _write(sql(job), job.out)


def _taxi_to_pandas(job: Job) -> None:
    _duckdb().sql(taxi_sql(Path(job.lake), job.spine)).df()


def _polars_as_of(job: Job) -> None:
    """Both sides are in time order already, so nothing is sorted."""
    lake = Path(job.lake)
    spine = pl.scan_parquet(data.files(lake / "spine")).set_sorted("timestamp")
    purchases = pl.scan_parquet(data.files(lake / "purchases")).set_sorted("bought_at")
    joined = spine.join_asof(
        purchases, left_on="timestamp", right_on="bought_at", by="user_id", strategy="backward", check_sortedness=False
    )
    joined.drop("bought_at", strict=False).collect().write_parquet(job.out, compression="snappy")


PEERS: dict[str, Callable[[Job], None]] = {
    "DuckDB as-of": _copy(lambda job: as_of_sql(Path(job.lake), job.spine)),
    "Polars as-of": _polars_as_of,
    "DuckDB windows": _copy(lambda job: windows_sql(Path(job.lake), job.windows)),
    "DuckDB join and group": _copy(lambda job: windows_join_sql(Path(job.lake), job.windows)),
    "DuckDB taxi": _copy(lambda job: taxi_sql(Path(job.lake), job.spine)),
    "DuckDB taxi to pandas": _taxi_to_pandas,
}


def main() -> None:
    """Runs the job given as JSON and prints its cost as JSON."""
    job = Job(**json.loads(sys.argv[1]))
    wall, processor = time.perf_counter(), time.process_time()
    PEERS[job.peer](job)
    seconds, cpu, peak = time.perf_counter() - wall, time.process_time() - processor, _peak()
    print(json.dumps(asdict(Cost(seconds, cpu, process=peak, total=peak))))


def _peak() -> int:
    """The most memory this process ever held, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


if __name__ == "__main__":
    main()
