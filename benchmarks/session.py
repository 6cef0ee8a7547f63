"""A local Ray of this machine's cores, and mlray as a contestant in it."""

import os
import shutil
from pathlib import Path
from typing import Any

import ray

import mlray as ml
from benchmarks import data
from benchmarks.measure import Cost, Measured, Run, measured
from benchmarks.report import Report, gib
from mlray import cluster
from mlray.offline.plan import Strategy

LAID_OUT, ARBITRARY = "mlray layout", "mlray shuffle"
JOINS: dict[str, Strategy] = {LAID_OUT: "co-partitioned", ARBITRARY: "shuffle"}


def start(store: int | None = None) -> float:
    """Starts Ray with one logical CPU per core, unless this process has joined one; gives the seconds it took.

    store: bytes of its object store; None: as Ray sizes it.
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return measured(lambda: cluster.join(None, os.cpu_count(), store)).seconds


def restart(store: int | None = None) -> None:
    """A Ray that has run nothing, where this process started the one it has: a worker is counted as holding each page
    of the object store that it ever touched, for whom it may have been.
    """
    if cluster.ends_with_process():
        stop()
        start(store)


def stop() -> None:
    """Leaves Ray, and ends it where this process started it."""
    ray.shutdown()


def platform(lake: Path) -> ml.Platform:
    """A platform over a lake."""
    return ml.connect(ml.Settings(lake=str(lake)))


def laid_out(lake: Path, source: ml.DeltaSource, entity: ml.Entity) -> str:
    """Lays a source out anew; what that took, in words."""
    shutil.rmtree(lake / "_mlray" / "layout", ignore_errors=True)
    cost = measured(lambda: platform(lake).layout(source, entity))
    size = sum(f.stat().st_size for f in (lake / "_mlray" / "layout").rglob("*.parquet"))
    return (
        f"Laying {lake.name} out, once and counted nowhere below: {cost.seconds:.1f} s wall, {cost.cpu:.1f} s CPU, "
        f"{gib(size)} GiB on disk."
    )


def contestants(lake: Path, service: ml.FeatureService, report: Report) -> dict[str, Run]:
    """mlray over the layout, and over the table as it lies; their plans are reported."""
    for join in JOINS.values():
        report.block(str(training_set(lake, service, join).explain()))
    return {who: built(lake, service, join) for who, join in JOINS.items()}


def built(lake: Path, service: ml.FeatureService, join: Strategy, spine: str = "spine") -> Run:
    """A run that builds the service's training set for the lake's `spine` and writes it as a Delta table."""
    return lambda out, watch: _written(lake, service, join, spine, out, watch)


def training_set(lake: Path, service: ml.FeatureService, join: Strategy, spine: Any = "spine") -> Any:
    """Planned, not computed."""
    return platform(lake).build_training_set(service, spine, join=join)


def output(run: Measured) -> str:
    """A run's output as SQL."""
    table = run.out / "set"
    return data.relation(table) if table.exists() else f"read_parquet('{run.out / 'set.parquet'}')"


def _written(lake: Path, service: ml.FeatureService, join: Strategy, spine: str, out: Path, watch: bool) -> Cost:
    return measured(lambda: training_set(lake, service, join, spine).write_delta(out / "set"), watch)
