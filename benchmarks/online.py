"""D. Online reads: latest values and windows from LMDB and Redis, one process and several; loads into LMDB."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import mlray as ml
from benchmarks import online_redis
from benchmarks.check import Verdict
from benchmarks.measure import Cost, measured
from benchmarks.online_data import AT, LOAD, LOADED, SERVICES, Online, Truth
from benchmarks.online_reads import Job, Read, Reads, in_turns, processes, requests, to_arrow, to_python
from benchmarks.options import Options
from benchmarks.report import Goal, Report, command_line

FULL, SMALL = Online(100_000, 10_000, 300_000), Online(10_000, 1_000, 30_000)
BATCHES, READERS, CHECKED = (1, 10, 100, 500), (1, 2, 4), 100
LMDB, REDIS, BARE = "LMDB", "Redis", "bare Redis"
MOST = {("D1", 1): 100, ("D1", 100): 2000, ("D2", 1): 500, ("D2", 100): 15_000}
"""Goals: microseconds at the median, from LMDB to Python."""
READ_HEADERS = ["reads", "keys", "p50 us", "p99 us", "reads/s", "keys/s", "CPU us"]

_Measured = dict[tuple[str, str, int], Reads]
"""By workload, contestant and number of keys."""


@dataclass(frozen=True)
class _Bench:
    """Everything in place: tables, two stores that hold them, and for how long each thing is read."""

    size: Online
    lake: Path
    urls: Mapping[str, str]
    seconds: float
    rounds: int

    def platform(self, store: str) -> ml.Platform:
        return ml.connect(ml.Settings(lake=str(self.lake), online=self.urls[store]))

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """The right answers of the keys that are checked."""
        pools = {workload: requests(self.size.asked(workload), CHECKED, seed=99) for workload in SERVICES}
        return {workload: Truth(self.lake, workload, pool[0]) for workload, pool in pools.items()}

    def job(self, workload: str, batch: int) -> Job:
        keys, checked = self.size.asked(workload), self.truths[workload].keys
        return Job(str(self.lake), self.urls[LMDB], workload, keys, batch, self.seconds, checked)


def run(size: Online, options: Options, seconds: float, readers: Sequence[int] = READERS) -> bool:
    """Measures, checks and writes up; whether every answer is right. seconds: of each measurement."""
    report = Report("online", "D. Online reads", command_line())
    report.text(f"{size.text} Redis in a process of its own, reached over the loopback. {_versions()}")
    lake, folder = size.lake(options.data), options.data / "out" / "online"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with online_redis.server(folder) as redis_url:
        bench = _Bench(size, lake, {LMDB: f"lmdb://{folder}/lmdb", REDIS: redis_url}, seconds, options.rounds)
        goals = list(_loads(bench, report))
        goals += _one_process(bench, report)
        verdicts = list(_answers(bench))
        more, checked = _processes(bench, report, readers)
        goals += more
        verdicts += checked
    report.verdicts(verdicts)
    report.goals(goals)
    report.write(options.results)
    return report.right


def _loads(bench: _Bench, report: Report) -> Iterator[Goal]:
    """Materializes everything everywhere, and tells how fast."""
    rows = []
    for store in bench.urls:
        platform = bench.platform(store)
        for name, service in {**SERVICES, "load": LOAD}.items():
            cost = measured(lambda service=service, on=platform: on.materialize(service, until=AT))  # type: ignore[misc]
            keys, cells = _sizes(bench.size, name)
            rows.append([f"{name} into {store}", *_speed(cost, keys, cells)])
            if (store, name) == (LMDB, "load"):
                minute = keys / cost.seconds * 60
                what = f"keys of {LOADED} features materialized into LMDB per minute"
                yield Goal(what, ">= 300,000", f"{minute:,.0f} (CPU {cost.cpu:.2f} s)", minute >= 300_000)
    report.table("Materialize", ["load", "rows", "keys", "wall s", "CPU s", "rows/s", "keys/min"], rows)


def _sizes(size: Online, load: str) -> tuple[int, int]:
    """Keys and rows of the tables of a load."""
    if load == "load":
        return size.loaded, size.loaded
    keys = size.asked(load)
    return keys, keys * (2 * len(SERVICES[load].views) if load == "D1" else size.events)


def _speed(cost: Cost, keys: int, rows: int) -> Sequence[str]:
    return (
        f"{rows:,}", f"{keys:,}", f"{cost.seconds:.2f}", f"{cost.cpu:.2f}", f"{rows / cost.seconds:,.0f}",
        f"{keys / cost.seconds * 60:,.0f}",
    )  # fmt: skip


def _one_process(bench: _Bench, report: Report) -> Iterator[Goal]:
    found: _Measured = {}
    for workload in SERVICES:
        contestants = _contestants(bench, workload)
        for batch in BATCHES:
            pool = requests(bench.size.asked(workload), batch)
            for who, reads in in_turns(contestants, pool, bench.seconds, bench.rounds).items():
                found[workload, who, batch] = reads
        rows = [_row(who, batch, found[workload, who, batch]) for who in contestants for batch in BATCHES]
        report.table(f"{workload}, one process", READ_HEADERS, rows)
    for (workload, batch), most in MOST.items():
        reads = found[workload, f"{LMDB} to Python", batch]
        what = f"{workload}, {LMDB} to Python, {_keys(batch)}, p50"
        told = f"{reads.p50:,.0f} us (CPU {reads.cpu_each:,.0f} us)"
        yield Goal(what, f"< {most:,} us", told, reads.p50 < most)
    for batch in BATCHES:
        ours, bare = found["D1", f"{REDIS} to Python", batch], found["D1", BARE, batch]
        ratio, by_cpu = ours.p50 / bare.p50, ours.cpu_each / bare.cpu_each
        told = f"{ratio:.2f}x (CPU of the client {by_cpu:.2f}x)"
        yield Goal(f"D1, {REDIS} to Python, {_keys(batch)}, p50 of a bare pipeline", "<= 1.5x", told, ratio <= 1.5)


def _contestants(bench: _Bench, workload: str) -> dict[str, Read]:
    found: dict[str, Read] = {}
    for store in bench.urls:
        platform = bench.platform(store)
        found[f"{store} to Python"] = to_python(platform, workload)
        found[f"{store} to Arrow"] = to_arrow(platform, workload)
    return found | {BARE: online_redis.bare(bench.urls[REDIS], workload)}


def _answers(bench: _Bench) -> Iterator[Verdict]:
    """Answers of one process, read one by one and together."""
    for workload, truth in bench.truths.items():
        keys = list(truth.keys)
        for store in bench.urls:
            platform = bench.platform(store)
            read = to_python(platform, workload)
            table = platform.get_features(SERVICES[workload], [{"id": key} for key in keys], at=AT)
            ways = {"one by one": [read([key])[0] for key in keys], "together": read(keys), "Arrow": table.to_pylist()}
            for how, found in ways.items():
                yield truth.verdict(f"{workload}, {store}, {how}", [dict(zip(keys, found, strict=True))])


def _processes(bench: _Bench, report: Report, readers: Sequence[int]) -> tuple[list[Goal], list[Verdict]]:
    rows, goals, verdicts = [], [], []
    with processes(max(readers)) as those:
        for workload, batch in MOST:
            job, truth, quiet = bench.job(workload, batch), bench.truths[workload], None
            for count in readers:
                reads, answers = those.reads(job, count)
                quiet = quiet or reads
                rows.append(_row(f"{workload}, readers: {count}", batch, reads))
                verdicts.append(truth.verdict(f"{workload}, {LMDB}, {_keys(batch)}, readers: {count}", answers))
            reads, answers, loads = those.while_loading(job)
            rows.append(_row(f"{workload}, readers: 1, its views materialized {loads}x meanwhile", batch, reads))
            verdicts.append(truth.verdict(f"{workload}, {LMDB}, {_keys(batch)}, under materialize", answers))
            if quiet:
                goals.append(_disturbed(f"{workload}, {_keys(batch)}", quiet, reads))
    report.table(f"{LMDB} to Python, in processes of their own", READ_HEADERS, rows)
    return goals, verdicts


def _disturbed(what: str, quiet: Reads, loaded: Reads) -> Goal:
    ratio = loaded.p99 / quiet.p99
    told = f"{ratio:.2f}x: {quiet.p99:,.0f} us, then {loaded.p99:,.0f} us"
    return Goal(f"{what}, p99 under materialize of p99 without", "<= 2x", told, ratio <= 2)


def _row(who: str, batch: int, reads: Reads) -> list[str]:
    return [
        who, f"{batch}", f"{reads.p50:,.0f}", f"{reads.p99:,.0f}", f"{reads.rate:,.0f}", f"{reads.rate * batch:,.0f}",
        f"{reads.cpu_each:,.0f}",
    ]  # fmt: skip


def _keys(batch: int) -> str:
    return f"{batch} key" if batch == 1 else f"{batch} keys"


def _versions() -> str:
    known = [f"{name} {version(name)}" for name in ("lmdb", "redis", "hiredis")]
    return f"{online_redis.server_version()}, {', '.join(known)}."


def main() -> int:
    """Exit code 1 where an answer is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options, 3.0 if options.full else 0.3) else 1


if __name__ == "__main__":
    sys.exit(main())
