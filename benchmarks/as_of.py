"""A. As-of: the latest of eight columns for each spine row, beside DuckDB's ASOF join and Polars' join_asof."""

import sys

import mlray as ml
from benchmarks import check, data, peers, session
from benchmarks.data import Purchases
from benchmarks.measure import interleaved
from benchmarks.options import Options
from benchmarks.report import GIB, Goal, Report, command_line

SOURCE = ml.DeltaSource("purchases", path="purchases", timestamp="bought_at")
USER = ml.Entity("user", keys=["user_id"])
LATEST = ml.FeatureView("latest", entity=USER, source=SOURCE, features=list(data.COLUMNS))
SERVICE = ml.FeatureService("as_of", features=[LATEST])

FULL, SMALL = Purchases(20_000_000, 2_000_000, 200_000), Purchases(2_000_000, 200_000, 20_000)


def run(size: Purchases, options: Options) -> bool:
    """Measures, checks and writes up; whether every result is right."""
    report = Report("as_of", "A. As-of: mlray beside DuckDB and Polars", command_line())
    lake = size.lake(options.data)
    report.text(f"{size.text} Output: Parquet files. Ray started in {session.start():.1f} s.")
    report.text(session.laid_out(lake, SOURCE, USER))
    contestants = session.contestants(lake, SERVICE, report)
    contestants |= {name: peers.runner(name, lake) for name in ("DuckDB as-of", "Polars as-of")}
    runs = interleaved(contestants, lake, options.data / "out", options.rounds, session.restart)
    report.costs("Costs", runs, size.spine)

    duckdb = runs["DuckDB as-of"]
    cells = ["user_id", "timestamp", *data.COLUMNS]
    theirs = session.output(duckdb)
    report.verdicts(
        check.same_table(f"{who} = DuckDB as-of", session.output(one), theirs, cells)
        for who, one in runs.items()
        if one is not duckdb
    )
    goals = []
    for who, asked in ((session.LAID_OUT, 3.0), (session.ARBITRARY, 1.0)):
        goals.append(Goal.faster(who, runs[who], "DuckDB", duckdb, asked))
        goals.append(Goal.faster(who, runs[who], "Polars", runs["Polars as-of"]))
    peak = runs[session.LAID_OUT].warm.process / GIB
    goals.append(Goal.below(f"{session.LAID_OUT}, largest process", peak, 1.2, " GiB"))
    report.goals(goals)
    report.write(options.results)
    return report.right


def main() -> int:
    """Exit code 1 where a result is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options) else 1


if __name__ == "__main__":
    sys.exit(main())
