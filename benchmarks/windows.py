"""B. Windows: sum, count, mean and max of one column over five windows, beside DuckDB's range windows."""

import sys
from collections.abc import Sequence

import mlray as ml
from benchmarks import check, data, peers, session
from benchmarks.as_of import FULL, SMALL, SOURCE, USER
from benchmarks.data import Purchases
from benchmarks.measure import interleaved
from benchmarks.options import Options
from benchmarks.report import Goal, Report, command_line
from mlray.aggregation.window import Window

ONE = f"{session.LAID_OUT} one window"
WINDOWS = tuple(data.WINDOWS)


def recent(windows: Sequence[str]) -> ml.FeatureView:
    """Four aggregates of v0 over each of the windows."""
    spans = [Window(data.WINDOWS[w]) for w in windows]
    kinds = (ml.Sum, ml.Count, ml.Mean, ml.Max)
    return ml.FeatureView("recent", entity=USER, source=SOURCE, features=[k("v0", windows=spans) for k in kinds])


def service(windows: Sequence[str]) -> ml.FeatureService:
    """What benchmark B asks."""
    return ml.FeatureService("windows", features=[recent(windows)])


def run(size: Purchases, options: Options) -> bool:
    """Measures, checks and writes up; whether every result is right."""
    report = Report("windows", "B. Windows: mlray beside DuckDB", command_line())
    lake = size.lake(options.data)
    report.text(f"{size.text} Windows {', '.join(WINDOWS)}. Ray started in {session.start():.1f} s.")
    report.text(session.laid_out(lake, SOURCE, USER))
    contestants = session.contestants(lake, service(WINDOWS), report)
    contestants[ONE] = session.built(lake, service(["30d"]), session.JOINS[session.LAID_OUT])
    contestants |= {name: peers.runner(name, lake) for name in ("DuckDB windows", "DuckDB join and group")}
    runs = interleaved(contestants, lake, options.data / "out", options.rounds, session.restart)
    report.costs("Costs", runs, size.spine)

    duckdb = runs["DuckDB windows"]
    theirs, verdicts = session.output(duckdb), []
    for who, one in runs.items():
        windows = ("30d",) if who == ONE else WINDOWS
        exact = [f"v0_{kind}_{w}" for w in windows for kind in ("count", "max")]
        close = [f"v0_{kind}_{w}" for w in windows for kind in ("sum", "mean")]
        ours = session.output(one)
        if one is not duckdb:
            what = f"{who} = DuckDB windows"
            verdicts.append(check.same_table(what, ours, theirs, ["user_id", "timestamp", *exact], close))
        if who.startswith("mlray"):
            verdicts.append(check.exact_windows(f"{who} = fractions, to the bit", lake, ours, windows))
    report.verdicts(verdicts)
    goals = []
    for who in session.JOINS:
        goals.append(Goal.faster(who, runs[who], "DuckDB's range windows", duckdb, 20))
        goals.append(Goal.faster(who, runs[who], "DuckDB's join and group", runs["DuckDB join and group"]))
    dearer = runs[session.LAID_OUT].warm.seconds / runs[ONE].warm.seconds
    goals.append(Goal.below("five windows against one, wall", dearer, 2, "x"))
    report.goals(goals)
    report.write(options.results)
    return report.right


def main() -> int:
    """Exit code 1 where a result is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options) else 1


if __name__ == "__main__":
    sys.exit(main())
