"""Seeded tables of any size, written once as Delta tables and found again under the same name.

The same name holds the same rows: a table is written beside its place and moved there when it is whole.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from numpy.typing import NDArray

Ints = NDArray[np.int64]

SEED = 20260101
START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z in microseconds
SECOND = 1_000_000
DAY = 86_400 * SECOND
INSTANT = pa.timestamp("us", tz="UTC")

COLUMNS = tuple(f"v{i}" for i in range(8))
WINDOWS = {"5m": 300 * SECOND, "1h": 3600 * SECOND, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
"""Windows of benchmark B in microseconds; the spine touches their edges."""

ZONES = 265
POPULARITY = (1 / np.arange(1, ZONES + 1)) / (1 / np.arange(1, ZONES + 1)).sum()
_RUSH = 1.2 - np.cos((np.arange(1440) - 240) * 2 * np.pi / 1440)
DAILY_CURVE = _RUSH / _RUSH.sum()
"""The share of a day's trips in each minute: fewest at four in the morning."""


@dataclass(frozen=True)
class Purchases:
    """`rows` events of `users` over `days` (user_id, bought_at, v0..v7), in `files` in time order, and a spine."""

    rows: int
    spine: int
    users: int
    files: int = 20
    days: int = 90

    @property
    def text(self) -> str:
        """The size in words."""
        return (
            f"{self.spine:,} spine rows x {self.rows:,} rows of {self.users:,} users, {len(COLUMNS)} float columns, "
            f"{self.days} days, {self.files} files in time order."
        )

    def lake(self, root: Path) -> Path:
        """The folder with the Delta tables `purchases` and `spine`, written now if they are missing."""
        lake = root / f"purchases-{self.rows}-{self.spine}-{self.users}"
        written(lake / "purchases", lambda: (self._file(i) for i in range(self.files)))
        written(lake / "spine", lambda: [self._spine(lake)])
        return lake

    def share(self, part: int, parts: int) -> "Purchases":
        """The same users and days with that share of the rows."""
        return replace(self, rows=self.rows * part // parts, spine=self.spine * part // parts)

    def few(self, lake: Path) -> str:
        """A small spine in the lake: one user in two hundred, asked ten times; gives its name."""
        name = f"spine_{self.users // 200}_users_10_times"
        written(lake / name, lambda: [self._few()])
        return name

    def _few(self) -> pa.Table:
        rng, users = np.random.default_rng([SEED, self.users]), self.users // 200
        user = np.repeat(rng.choice(self.users, users, replace=False), 10)
        at = rng.integers(START, START + self.days * DAY, len(user))
        return pa.table({"id": np.arange(len(user)), "user_id": user, "timestamp": instants(at)})

    def _file(self, number: int) -> pa.Table:
        """One slice of time. One row in a thousand is repeated whole: a tie whose order cannot matter."""
        rng = np.random.default_rng([SEED, number])
        count = self.rows * (number + 1) // self.files - self.rows * number // self.files
        span = self.days * DAY // self.files
        at = np.sort(rng.integers(START + number * span, START + (number + 1) * span, count))
        user = rng.integers(0, self.users, count)
        values = rng.standard_normal((len(COLUMNS), count))
        again = np.flatnonzero(rng.random(count) < 0.001)
        again = again[again > 0]
        for column in (at, user, *values):
            column[again] = column[again - 1]
        columns = dict(zip(COLUMNS, values, strict=True))
        return pa.table({"user_id": user, "bought_at": pa.array(at).cast(INSTANT), **columns})

    def _spine(self, lake: Path) -> pa.Table:
        """Random users at random instants, in time order. Every fiftieth asks at the instant of an event of its user,
        or when that event enters or leaves a window: an edge has to be met to be tested.
        """
        rng = np.random.default_rng([SEED, self.files])
        at = rng.integers(START, START + self.days * DAY, self.spine)
        user = rng.integers(0, self.users, self.spine)
        events = pa.concat_tables(pq.read_table(f, columns=["user_id", "bought_at"]) for f in files(lake / "purchases"))
        edge = np.flatnonzero(rng.random(self.spine) < 0.02)
        event = rng.integers(0, events.num_rows, len(edge))
        user[edge] = events["user_id"].to_numpy()[event]
        later = rng.choice([0, 0, *WINDOWS.values()], len(edge))
        at[edge] = events["bought_at"].cast(pa.int64()).to_numpy()[event] + later
        order = np.argsort(at, kind="stable")
        return pa.table({"id": np.arange(self.spine), "user_id": user[order], "timestamp": instants(at[order])})


@dataclass(frozen=True)
class Taxi:
    """Trips between 265 zones of Zipf popularity, `per_day` a day on a daily curve, `trips` in all."""

    trips: int
    per_day: int = 450_000

    @property
    def days(self) -> int:
        return -(-self.trips // self.per_day)

    def lake(self, root: Path, spines: Iterable[int]) -> Path:
        """The folder with `pickups` per (zone, 15 min), `dropoffs` per (zone, 30 min), each stamped at the window's
        end, and the first n trips as `trips_<n>` for each n of `spines`; written now if they are missing.
        """
        lake = root / f"taxi-{self.trips}-{self.per_day}"
        written(lake / "pickups", lambda: [self._windows("pickup_zone", "timestamp", 15, "fare")])
        written(lake / "dropoffs", lambda: [self._windows("dropoff_zone", "dropoff_at", 30, "tip")])
        for count in spines:
            written(lake / f"trips_{count}", lambda count=count: self._first(count))  # type: ignore[misc]
        return lake

    def _first(self, count: int) -> Iterable[pa.Table]:
        for day in range(-(-count // self.per_day)):
            yield self._day(day).slice(0, count - day * self.per_day)

    def _day(self, day: int) -> pa.Table:
        """One day's trips in time order: 14 columns. One pickup in a hundred is on a quarter of an hour."""
        rng, n = np.random.default_rng([SEED, day]), self.per_day
        minute = rng.choice(1440, n, p=DAILY_CURVE)
        within = np.where(rng.random(n) < 0.01, 0, rng.integers(0, 60 * SECOND, n))
        at = np.sort(START + day * DAY + np.where(within, minute, minute // 15 * 15) * 60 * SECOND + within)
        distance = np.round(rng.lognormal(0.7, 0.8, n), 2)
        took = (60 + distance * 240 * rng.lognormal(0, 0.3, n)) * SECOND
        fare = np.round(3 + 2.5 * distance + took / SECOND / 90, 2)
        tip, tolls = np.round(fare * rng.choice([0, 0.15, 0.2], n), 2), np.where(distance > 15, 6.94, 0.0)
        return pa.table({
            "id": np.arange(day * n, (day + 1) * n), "vendor": rng.integers(1, 3, n), "timestamp": instants(at),
            "dropoff_at": instants(at + took.astype(np.int64)), "passengers": rng.integers(1, 7, n),
            "distance": distance, "rate_code": rng.choice(6, n), "payment": rng.integers(1, 5, n),
            "pickup_zone": rng.choice(ZONES, n, p=POPULARITY), "dropoff_zone": rng.choice(ZONES, n, p=POPULARITY),
            "fare": fare, "tip": tip, "tolls": tolls, "total": fare + tip + tolls,
        })  # fmt: skip

    def _windows(self, zone: str, time: str, minutes: int, amount: str) -> pa.Table:
        """Per zone and window that saw a trip: how many, and the mean amount; known when the window is over."""
        length = minutes * 60 * SECOND
        slots = (self.days + 1) * DAY // length
        count, total = np.zeros(ZONES * slots), np.zeros(ZONES * slots)
        for day in range(self.days):
            trips = self._day(day)
            slot = (trips[time].cast(pa.int64()).to_numpy() - START) // length
            cell = np.minimum(slot, slots - 1) * ZONES + trips[zone].to_numpy()
            count += np.bincount(cell, minlength=len(count))
            total += np.bincount(cell, trips[amount].to_numpy(), minlength=len(count))
        seen = np.flatnonzero(count)
        side = zone.removesuffix("_zone")
        return pa.table({
            "zone": seen % ZONES, "over_at": instants(START + (seen // ZONES + 1) * length),
            f"{side}_trips": count[seen].astype(np.int64), f"{side}_mean_{amount}": total[seen] / count[seen],
        })  # fmt: skip


def instants(microseconds: Ints) -> pa.Array:
    """Microseconds since 1970 as UTC timestamps."""
    return pa.array(microseconds).cast(INSTANT)


def written(table: Path, parts: Callable[[], Iterable[pa.Table]]) -> None:
    """Writes a Delta table, one file and commit per part, unless it is there."""
    if table.exists():
        return
    unfinished = table.with_name(f"{table.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for part in parts():
        write_deltalake(unfinished, part, mode="append")
    unfinished.rename(table)


def files(table: Path) -> list[str]:
    """The table's data files in the order of their commits, for readers that know no Delta."""
    added = pa.table(DeltaTable(table).get_add_actions(flatten=True)).sort_by("modification_time")
    return [str(table / name) for name in added["path"].to_pylist()]


def relation(table: Path) -> str:
    """A table's rows in DuckDB's SQL."""
    return f"read_parquet({files(table)})"
