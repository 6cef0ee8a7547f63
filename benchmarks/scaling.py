"""Scaling: 1, 2, 4, 8 times the rows; a small spine over many rows; one, two and four nodes."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import check, data, nodes, peers, session
from benchmarks.as_of import FULL, SMALL, SOURCE, USER
from benchmarks.check import Verdict
from benchmarks.data import Purchases
from benchmarks.measure import Measured, interleaved
from benchmarks.nodes import SERVICE
from benchmarks.options import Options
from benchmarks.report import GIB, Goal, Report, command_line, gib
from mlray.offline.plan import Strategy

STEPS, NODES = (1, 2, 4, 8), (1, 2, 4)
STORE = 512 << 20
"""Bytes of the small object store: about a third of what the largest shuffle moves."""


def run(largest: Purchases, options: Options, steps: Sequence[int] = STEPS, clusters: Sequence[int] = NODES) -> bool:
    """Measures, checks and writes up; whether every result is right."""
    report = Report("scaling", "Scaling: rows, a small spine, nodes", command_line())
    sizes = [largest.share(step, steps[-1]) for step in steps]
    lakes = [size.lake(options.data) for size in sizes]
    report.text(f"Eight latest values and four aggregates over two windows. Ray started in {session.start():.1f} s.")
    for lake in lakes:
        report.text(session.laid_out(lake, SOURCE, USER))
    verdicts, goals = [], []
    for who, join in session.JOINS.items():
        runs = _rows(who, join, sizes, lakes, options)
        report.table(*_growth(who, sizes, runs))
        verdicts += [v for lake, one in zip(lakes, runs, strict=True) for v in _right(who, lake, one, "spine", options)]
        goals += _linear(who, runs, steps[-1] / steps[0])
    bounded, checked = _bounded(report, sizes[-1], lakes[-1], options)
    verdicts += checked
    goals.append(Goal.below("shuffle, small object store, largest process", bounded.warm.process / GIB, 1.2, " GiB"))
    few, checked = _few(report, sizes[-1], lakes[-1], options)
    verdicts += checked
    goals.append(Goal.below("small spine, layout, wall", few[session.LAID_OUT].warm.seconds, 2, " s"))
    share = few[session.LAID_OUT].cold.read / _bytes(lakes[-1])
    goals.append(Goal.below("small spine, layout, read cold, of the table's bytes", share, 0.5, "x"))
    verdicts += _nodes(report, lakes[0], clusters, options)
    report.verdicts(verdicts)
    report.goals(goals)
    report.write(options.results)
    return report.right


def _rows(
    who: str, join: Strategy, sizes: Sequence[Purchases], lakes: Sequence[Path], options: Options
) -> list[Measured]:
    contestants = {
        f"{who} {size.rows}": session.built(lake, SERVICE, join) for size, lake in zip(sizes, lakes, strict=True)
    }
    out = options.data / "out"
    return list(interleaved(contestants, options.data, out, options.rounds, session.restart).values())


def _growth(
    who: str, sizes: Sequence[Purchases], runs: Sequence[Measured]
) -> tuple[str, Sequence[str], list[Sequence[str]]]:
    first = runs[0].warm.seconds
    headers = ["rows", "spine rows", "cold s", "warm s", "CPU s", "warm s of 1x", "own GiB", "process GiB", "store GiB"]
    rows = [
        (
            f"{size.rows:,}", f"{size.spine:,}", f"{one.cold.seconds:.2f}", f"{one.warm.seconds:.2f}",
            f"{one.warm.cpu:.2f}", f"{one.warm.seconds / first:.2f}x", *map(gib, _memory(one)),
        )
        for size, one in zip(sizes, runs, strict=True)
    ]  # fmt: skip
    return f"Rows, {who}", headers, list(rows)


def _linear(who: str, runs: Sequence[Measured], factor: float) -> list[Goal]:
    first, last = runs[0].warm, runs[-1].warm
    return [
        Goal.below(f"{who}, {factor:g}x the rows, wall", last.seconds / first.seconds, 1.15 * factor, "x"),
        Goal.below(f"{who}, a process's own memory, at every size", max(r.warm.own for r in runs) / GIB, 1.2, " GiB"),
    ]


def _right(who: str, lake: Path, one: Measured, spine: str, options: Options) -> list[Verdict]:
    """Latest values against DuckDB's as-of join, windows against fractions."""
    theirs = options.data / "out" / "DuckDB.parquet"
    peers.run(peers.Job("DuckDB as-of", str(lake), str(theirs), spine=spine))
    what, ours = f"{who}, {lake.name}, {spine}", session.output(one)
    cells = ["user_id", "timestamp", *data.COLUMNS]
    return [
        check.same_table(f"{what} = DuckDB as-of", ours, f"read_parquet('{theirs}')", cells),
        check.exact_windows(f"{what} = fractions, to the bit", lake, ours, ["1d", "30d"]),
    ]


def _bounded(report: Report, size: Purchases, lake: Path, options: Options) -> tuple[Measured, list[Verdict]]:
    """The largest table, shuffled through an object store that is smaller than what is moved: the rest is spilled."""
    session.restart(STORE)
    who, run = f"{session.ARBITRARY}, small store", session.built(lake, SERVICE, "shuffle")
    anew = partial(session.restart, STORE)
    one = interleaved({who: run}, lake, options.data / "out", 1, anew)[who]
    session.restart()
    report.table(
        f"{size.rows:,} rows, shuffled in an object store of {gib(STORE)} GiB",
        ["who", "warm s", "CPU s", "own GiB", "process GiB", "store GiB"],
        [(who, f"{one.warm.seconds:.2f}", f"{one.warm.cpu:.2f}", *map(gib, _memory(one)))],
    )
    return one, _right(who, lake, one, "spine", options)


def _memory(one: Measured) -> tuple[int, int, int]:
    return one.warm.own, one.warm.process, one.warm.store


def _few(report: Report, size: Purchases, lake: Path, options: Options) -> tuple[dict[str, Measured], list[Verdict]]:
    """A small spine over the largest table; cold, so that what comes from the disk is what it reads."""
    spine = size.few(lake)
    for join in session.JOINS.values():
        report.block(str(session.training_set(lake, SERVICE, join, spine).explain()))
    contestants = {who: session.built(lake, SERVICE, join, spine) for who, join in session.JOINS.items()}
    runs = interleaved(contestants, lake, options.data / "out", options.rounds, session.restart)
    report.table(
        f"A small spine: {spine} over {size.rows:,} rows of {gib(_bytes(lake))} GiB",
        ["who", "cold s", "warm s", "CPU s", "read cold GiB", "process GiB"],
        [
            (who, f"{one.cold.seconds:.2f}", f"{one.warm.seconds:.2f}", f"{one.warm.cpu:.2f}",
             gib(one.cold.read), gib(one.warm.process))
            for who, one in runs.items()
        ],
    )  # fmt: skip
    return runs, [v for who, one in runs.items() for v in _right(who, lake, one, spine, options)]


def _bytes(lake: Path) -> int:
    return sum(Path(f).stat().st_size for f in data.files(lake / "purchases"))


def _nodes(report: Report, lake: Path, clusters: Sequence[int], options: Options) -> list[Verdict]:
    """The same bits on clusters of any number of nodes and by every join."""
    here = session.built(lake, SERVICE, "shuffle")
    out = interleaved({"here": here}, lake, options.data / "out", 1)["here"].out
    digests = {"this session": check.digest(out / "set")}
    rows = [("this session", "shuffle", "", digests["this session"][:16])]
    for count in clusters:
        for answer in nodes.answers(lake, count, list(session.JOINS.values())):
            digests[f"{count} nodes, {answer.join}"] = answer.digest
            rows.append((f"{count} nodes", answer.join, f"{answer.seconds:.2f}", answer.digest[:16]))
    report.table(
        f"Nodes: {lake.name}, one logical CPU each, first build", ["cluster", "join", "seconds", "digest"], rows
    )
    different = sum(digest != digests["this session"] for digest in digests.values())
    return [Verdict("digests of all clusters", len(digests), len(digests), different)]


def main() -> int:
    """Exit code 1 where a result is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options) else 1


if __name__ == "__main__":
    sys.exit(main())
