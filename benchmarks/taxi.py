"""C. Taxi: trips with features of their pickup zone and their drop-off zone, to pandas and to Parquet.

The shape of the public feature-store benchmark. Its published figures, 10M rows to pandas on 16 vCPU: Hopsworks
967k rows/s, Vertex 96k, SageMaker 90k, Databricks 59k.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlray as ml
from benchmarks import check, peers, session
from benchmarks.check import Verdict
from benchmarks.data import Taxi
from benchmarks.measure import Cost, Measured, Run, interleaved, measured
from benchmarks.options import Options
from benchmarks.report import Goal, Report, command_line

ZONE = ml.Entity("zone", keys=["zone"])
FEATURES = ("pickup_trips", "pickup_mean_fare", "dropoff_trips", "dropoff_mean_tip")
PICKUPS, DROPOFFS = (
    ml.FeatureView(
        name,
        entity=ZONE,
        source=ml.DeltaSource(name, path=name, timestamp="over_at"),
        features=[feature for feature in FEATURES if feature.startswith(name.removesuffix("s"))],
    )
    for name in ("pickups", "dropoffs")
)
SERVICE = ml.FeatureService("taxi", features=[PICKUPS.on(zone="pickup_zone"), DROPOFFS.on(zone="dropoff_zone")])

HOPSWORKS = 967_000 / 16
"""Rows a second and core."""

FULL, SMALL = (1_000_000, 2_000_000, 5_000_000, 10_000_000), (500_000,)
TO_PANDAS, TO_PARQUET = "mlray to pandas", "mlray to Parquet"


def run(sizes: tuple[int, ...], options: Options, per_day: int = 450_000) -> bool:
    """Measures, checks and writes up; whether every result is right."""
    report = Report("taxi", "C. Taxi: mlray beside DuckDB", command_line())
    lake = Taxi(max(sizes), per_day).lake(options.data, sizes)
    report.text(f"265 zones, {per_day:,} trips a day, 14 columns. Ray started in {session.start():.1f} s.")
    report.block(str(session.training_set(lake, SERVICE, "auto", f"trips_{max(sizes)}").explain()))
    goals, verdicts = [], []
    for size in sizes:
        frames: dict[str, Any] = {}
        contestants = _contestants(lake, f"trips_{size}", frames)
        runs = interleaved(contestants, lake, options.data / "out", options.rounds, session.restart)
        report.costs(f"{size:,} rows", runs, size)
        verdicts += _verdicts(runs, frames, size)
        goals += _goals(runs, size, last=size == max(sizes))
    report.verdicts(verdicts)
    report.goals(goals)
    report.write(options.results)
    return report.right


def _contestants(lake: Path, spine: str, frames: dict[str, Any]) -> dict[str, Run]:
    def to_pandas(_: Path, watch: bool) -> Cost:
        frames.clear()
        return measured(
            lambda: frames.update(frame=session.training_set(lake, SERVICE, "auto", spine).to_pandas()), watch
        )

    return {
        TO_PANDAS: to_pandas,
        TO_PARQUET: session.built(lake, SERVICE, "auto", spine),
        "DuckDB to pandas": peers.runner("DuckDB taxi to pandas", lake, spine=spine),
        "DuckDB to Parquet": peers.runner("DuckDB taxi", lake, spine=spine),
    }


def _verdicts(runs: Mapping[str, Measured], frames: Mapping[str, Any], size: int) -> list[Verdict]:
    theirs, cells = session.output(runs["DuckDB to Parquet"]), ["pickup_zone", "timestamp", "total", *FEATURES]
    ours = session.output(runs[TO_PARQUET])
    return [
        check.same_table(f"{TO_PANDAS} = DuckDB, {size:,}", "SELECT * FROM frame", theirs, cells, **frames),
        check.same_table(f"{TO_PARQUET} = DuckDB, {size:,}", ours, theirs, cells),
    ]


def _goals(runs: Mapping[str, Measured], size: int, last: bool) -> list[Goal]:
    each = size / runs[TO_PANDAS].warm.seconds / (os.cpu_count() or 1)
    asked = (f"> {HOPSWORKS:,.0f}", each > HOPSWORKS) if last else ("-", None)
    return [
        Goal(f"{size:,} rows to pandas: rows/s and core (Hopsworks 60k)", asked[0], f"{each:,.0f}", asked[1]),
        Goal.faster(f"{size:,} rows, {TO_PANDAS}", runs[TO_PANDAS], "DuckDB", runs["DuckDB to pandas"]),
        Goal.faster(f"{size:,} rows, {TO_PARQUET}", runs[TO_PARQUET], "DuckDB", runs["DuckDB to Parquet"]),
    ]


def main() -> int:
    """Exit code 1 where a result is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options) else 1


if __name__ == "__main__":
    sys.exit(main())
