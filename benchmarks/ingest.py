"""F. Ingest: events a second through `ingest` to Delta and LMDB, and how old a feature is when it can first be read."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

import mlray as ml
from benchmarks import data, session
from benchmarks.check import Verdict
from benchmarks.measure import Cost, measured
from benchmarks.options import Options
from benchmarks.report import Goal, Report, command_line
from mlray.writer.actor import RemoteWriter, stop

SOURCE = ml.DeltaSource("clicks", path="clicks", timestamp="at")
USER = ml.Entity("user", keys=["user_id"])
VIEW = ml.FeatureView("clicked", entity=USER, source=SOURCE, features=[
    "amount", ml.Count(windows=[ml.hours(1), ml.days(7)]), ml.Sum("amount", windows=[ml.days(7)]),
])  # fmt: skip
SERVICE = ml.FeatureService("clicks", features=[VIEW])
GOAL, FRESH = 50_000, 1.0
_RECORD = 55
"""Bytes of a cell of this view: version, header and row."""


@dataclass(frozen=True)
class Size:
    """`batches` calls of `rows` events of `users`, from `callers` threads. rate: events a second of the paced run;
    fewer: callers of a further run, which shows what the number of callers does.
    """

    batches: int
    users: int
    rows: int = 1000
    callers: int = 16
    fewer: int = 4
    rate: int = 20_000

    @property
    def events(self) -> int:
        return self.batches * self.rows


FULL, SMALL = Size(batches=1000, users=100_000), Size(batches=100, users=10_000)


@dataclass(frozen=True)
class Ran:
    """What one way of ingesting took: as fast as it goes, and the ages of events when they could be read, in seconds,
    then and at the paced rate.
    """

    cost: Cost
    ages: Sequence[float]
    paced: Sequence[float]
    verdict: Verdict


def run(size: Size, options: Options) -> bool:
    """Measures, checks and writes up; whether every result is right."""
    report = Report("ingest", "F. Ingest to Delta and LMDB", command_line())
    report.text(
        f"{size.batches:,} batches of {size.rows:,} events of {size.users:,} users, from {size.callers} callers; one "
        "view with a latest value, two counts and a sum. An event is made when its batch is sent; its age is that at "
        "which the call is answered, when it can be read. As fast as it goes, a caller sends its next batch when the "
        f"last one is answered; paced, all send {size.rate:,} events a second together. Ray started in "
        f"{session.start():.1f} s."
    )
    few = replace(size, callers=size.fewer)
    runs = {"in process": _ran(size, options, False), "by the actor": _ran(size, options, True)}
    others = {f"{who}, {few.callers} callers": _ran(few, options, who == "by the actor") for who in runs}
    floor, written = _bare_lmdb(size, options.data / "ingest-bare")
    report.table(
        "Costs",
        ["who", "seconds", "CPU s", "events/s", "events/CPU s", "age p50 s", "age p99 s", "paced p50 s", "paced p99 s"],
        [_row(size, who, one) for who, one in (runs | others).items()],
    )
    report.text(
        f"The floor of the store alone, in this run: LMDB itself, a record of {_RECORD} bytes per event under a random "
        f"user, in commits of {size.callers * size.rows:,} that reach the disk: {floor.seconds / written * 1e6:.1f} us "
        f"an event, {floor.cpu / written * 1e6:.1f} us of CPU. A commit writes a page of 4 KiB for nearly each record."
    )
    report.verdicts(one.verdict for one in (runs | others).values())
    goals = []
    for who, one in runs.items():
        rate = size.events / one.cost.seconds
        goals.append(Goal(f"{who}, events/s", f">= {GOAL:,}", f"{rate:,.0f}", rate >= GOAL))
        goals.append(Goal.below(f"{who}, age p99 as fast as it goes", _quantile(one.ages, 0.99), FRESH, " s"))
        goals.append(Goal.below(f"{who}, age p99 paced", _quantile(one.paced, 0.99), FRESH, " s"))
    report.goals(goals)
    report.write(options.results)
    return report.right


def _ran(size: Size, options: Options, actor: bool) -> Ran:
    lake = options.data / f"ingest-{'actor' if actor else 'process'}"
    shutil.rmtree(lake, ignore_errors=True)
    platform = session.platform(lake)
    platform.applied.apply(SERVICE)
    if actor:
        RemoteWriter(platform.settings.lake, platform.settings.online).start()
    platform.ingest(SOURCE, _batch(size, 0))
    platform.materialize(SERVICE)
    ages: list[float] = []
    paced: list[float] = []
    cost = measured(lambda: _sent(platform, size, ages, lambda _: None))
    slow = replace(size, batches=max(size.batches // 4, 20))
    _sent(platform, slow, paced, _pace(size))
    verdict = _checked(platform, size, f"{lake.name}, {size.callers} callers: every user's count")
    if actor:
        stop()
    return Ran(cost, ages, paced, verdict)


def _bare_lmdb(size: Size, folder: Path) -> tuple[Cost, int]:
    """What LMDB alone takes to keep as many records, after half of them; and how many these were."""
    shutil.rmtree(folder, ignore_errors=True)
    rng, value = np.random.default_rng(data.SEED), bytes(_RECORD)
    commits = size.batches // size.callers

    def put(numbers: Iterable[int]) -> None:
        for number in numbers:
            users = rng.integers(0, size.users, size.callers * size.rows).tolist()
            slot = number.to_bytes(9, "big")
            records = sorted((b"c" + user.to_bytes(15, "big") + slot, value) for user in users)
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(records)

    with lmdb.open(str(folder), map_size=8 << 30) as environment:
        put(range(commits // 2))
        cost = measured(lambda: put(range(commits // 2, commits)))
    return cost, (commits - commits // 2) * size.callers * size.rows


def _sent(platform: ml.Platform, size: Size, ages: list[float], pace: Callable[[int], None]) -> None:
    """All batches, from several threads."""

    def call(numbers: Iterator[int]) -> None:
        for number in numbers:
            pace(number)
            rows = _batch(size, number)
            made = time.perf_counter()
            platform.ingest(SOURCE, rows)
            ages.append(time.perf_counter() - made)

    shares = [iter(range(caller, size.batches, size.callers)) for caller in range(size.callers)]
    threads = [threading.Thread(target=call, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _pace(size: Size) -> Callable[[int], None]:
    """Waits until the turn of the batch of a number."""
    began = time.perf_counter()
    return lambda number: time.sleep(max(0.0, began + number * size.rows / size.rate - time.perf_counter()))


def _batch(size: Size, number: int) -> pa.Table:
    rng = np.random.default_rng([data.SEED, number])
    now = time.time_ns() // 1000
    countries = np.array(["DE", "FR", "PT"])[rng.integers(0, 3, size.rows)]
    return pa.table({
        "user_id": rng.integers(0, size.users, size.rows), "at": data.instants(np.full(size.rows, now)),
        "amount": rng.random(size.rows), "country": pa.array(countries),
    })  # fmt: skip


def _checked(platform: ml.Platform, size: Size, what: str) -> Verdict:
    """The counts that are read online against those of the table."""
    table = DeltaTable(str(Path(platform.settings.lake) / SOURCE.path)).to_pyarrow_table(columns=["user_id"])
    wanted = np.bincount(table["user_id"].to_numpy(), minlength=size.users)
    asked = pa.table({"user_id": np.arange(size.users)})
    found = platform.get_features(SERVICE, asked, at=datetime.now(UTC))["count_7d"].to_numpy()
    return Verdict(what, size.users, size.users, int((wanted != found).sum()))


def _row(size: Size, who: str, one: Ran) -> list[str]:
    cost = one.cost
    rates = (size.events / cost.seconds, size.events / cost.cpu)
    quantiles = [_quantile(ages, q) for ages in (one.ages, one.paced) for q in (0.5, 0.99)]
    times, ages = [f"{cost.seconds:.2f}", f"{cost.cpu:.2f}"], [f"{age:.3f}" for age in quantiles]
    return [who, *times, *(f"{rate:,.0f}" for rate in rates), *ages]


def _quantile(ages: Sequence[float], q: float) -> float:
    return float(np.quantile(np.array(ages), q))


def main() -> int:
    """Exit code 1 where a result is wrong."""
    options = Options.parsed(__doc__ or "")
    return 0 if run(FULL if options.full else SMALL, options) else 1


if __name__ == "__main__":
    sys.exit(main())
