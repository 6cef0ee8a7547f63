"""What benchmark D reads: its tables, its definitions, and the answers that its tables imply."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import mlray as ml
from benchmarks.check import Verdict
from benchmarks.data import DAY, INSTANT, SECOND, SEED, START, WINDOWS, relation, written
from mlray.aggregation.window import Window

NOW = START + 90 * DAY
AT = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=NOW)
"""Until when everything is materialized, and as of when it is read."""

VIEWS, COLUMNS, LOADED = 5, 10, 20
KEY = ml.Entity("key", keys=["id"])


def _latest(name: str, columns: int) -> ml.FeatureView:
    source = ml.DeltaSource(name, path=name, timestamp="seen_at")
    return ml.FeatureView(name, entity=KEY, source=source, features=[f"{name}_{i}" for i in range(columns)])


def _windowed() -> ml.FeatureView:
    spans = [Window(length) for length in WINDOWS.values()]
    source = ml.DeltaSource("events", path="events", timestamp="seen_at")
    kinds = (ml.Count, ml.Sum, ml.Mean, ml.Min, ml.Max, ml.Std, ml.First, ml.Last, ml.CountDistinct)
    features = [*(kind("v", windows=spans) for kind in kinds), ml.Quantile("v", 0.95, windows=spans)]
    return ml.FeatureView("recent", entity=KEY, source=source, features=features)


READINGS = [_latest(f"r{i}", COLUMNS) for i in range(VIEWS)]
SERVICES = {
    "D1": ml.FeatureService("latest_values", features=READINGS),
    "D2": ml.FeatureService("windowed_values", features=[_windowed()]),
}
LOAD = ml.FeatureService("loaded_values", features=[_latest("wide", LOADED)])


@dataclass(frozen=True)
class Online:
    """keys: of D1; busy: of D2, with `events` each; loaded: of the speed of materialize."""

    keys: int
    busy: int
    loaded: int
    events: int = 200

    @property
    def text(self) -> str:
        """The size in words."""
        return (
            f"D1: {VIEWS * COLUMNS} latest values in {VIEWS} views of {COLUMNS} float columns, {self.keys:,} keys of "
            f"two rows in each. D2: {len(SERVICES['D2'].names)} windowed features, ten aggregates of a float over "
            f"{', '.join(WINDOWS)}, {self.busy:,} keys of {self.events} events, whose ages lie evenly on a logarithmic "
            "scale from a second to 30 days, so that each window holds some."
        )

    def asked(self, workload: str) -> int:
        """How many keys a workload has."""
        return self.keys if workload == "D1" else self.busy

    def lake(self, root: Path) -> Path:
        """The folder with the tables, written now if they are missing."""
        lake = root / f"online-{self.keys}-{self.busy}-{self.loaded}-{self.events}"
        for number, view in enumerate(READINGS):
            written(lake / view.name, lambda view=view, n=number: _rows(view, self.keys, 2, n))  # type: ignore[misc]
        written(lake / "wide", lambda: _rows(LOAD.views[0], self.loaded, 1, VIEWS))
        written(lake / "events", lambda: [self._events()])
        return lake

    def _events(self) -> pa.Table:
        """One event in a hundred has the value of the one before it. No two of a key are of one instant."""
        rng, count = np.random.default_rng([SEED, VIEWS + 1]), self.busy * self.events
        ages = np.exp(rng.uniform(math.log(SECOND), math.log(30 * DAY), (self.busy, self.events)))
        at = NOW - np.sort(ages.astype(np.int64), axis=1)[:, ::-1] + np.arange(self.events) - self.events
        values = rng.standard_normal(count)
        again = np.flatnonzero(rng.random(count) < 0.01)[1:]
        values[again] = values[again - 1]
        ids = np.repeat(np.arange(self.busy), self.events)
        order = np.argsort(at.ravel(), kind="stable")
        return pa.table({"id": ids[order], "seen_at": pa.array(at.ravel()[order]).cast(INSTANT), "v": values[order]})


def _rows(view: ml.FeatureView, keys: int, times: int, seed: int) -> list[pa.Table]:
    """`times` rows of every key, each in a file of its own and later than the one before."""
    tables = []
    for turn in range(times):
        rng = np.random.default_rng([SEED, seed, turn])
        at = pa.array(NOW - DAY * (times - turn) + rng.integers(0, DAY, keys)).cast(INSTANT)
        values = dict(zip(view.names, rng.standard_normal((len(view.names), keys)), strict=True))
        tables.append(pa.table({"id": np.arange(keys), "seen_at": at, **values}))
    return tables


# The answers, by DuckDB's scan and plain Python


class Truth:
    """answers: by key, of some keys of a workload, as its tables imply them."""

    def __init__(self, lake: Path, workload: str, keys: Sequence[int]) -> None:
        self.keys, self._names = tuple(keys), SERVICES[workload].names
        self.answers: dict[int, dict[str, Any]] = (_latest_values if workload == "D1" else _windowed_values)(lake, keys)

    def verdict(self, what: str, answers: Sequence[Mapping[int, Mapping[str, Any]]]) -> Verdict:
        """Compares answers by key, of one or more readers, to the bit."""
        wrong = sum(
            repr(given.get(key, {}).get(name, "missing")) != repr(self.answers[key][name])
            for given in answers
            for key in self.keys
            for name in self._names
        )
        rows = len(answers) * len(self.keys)
        return Verdict(f"{what} = the tables, to the bit", rows, rows * len(self._names), wrong)


def _latest_values(lake: Path, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {key: {} for key in keys}
    for view in READINGS:
        for key, rows in _history(lake / view.name, view.names, keys).items():
            newest = max((row for row in rows if row[0] <= NOW), key=lambda row: row[0])
            found[key] |= dict(zip(view.names, newest[1:], strict=True))
    return found


def _windowed_values(lake: Path, keys: Sequence[int]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for key, rows in _history(lake / "events", ["v"], keys).items():
        found[key] = {}
        for name, length in WINDOWS.items():
            values = [value for at, value in sorted(rows) if NOW - length <= at < NOW]
            found[key] |= {f"v_{kind}_{name}": value for kind, value in aggregates(values).items()}
    return found


def aggregates(values: Sequence[float]) -> dict[str, Any]:
    """The contract said naively, for the values of one window in the order of time: what is rounded is rounded once."""
    counts = {"count": len(values), "count_distinct": len(set(values))}
    if not values:
        return counts | dict.fromkeys(("sum", "mean", "min", "max", "std", "first", "last", "q95"))
    exact, number = [Fraction(value) for value in values], len(values)
    total, squares = sum(exact, Fraction(0)), sum((value * value for value in exact), Fraction(0))
    spread = squares - total * total / number
    ordered, (below, part) = sorted(exact), divmod((number - 1) * Fraction(19, 20), 1)
    above = ordered[min(below + 1, number - 1)]
    return counts | {
        "sum": float(total),
        "mean": float(total) / number,
        "min": min(values),
        "max": max(values),
        "std": math.sqrt(float(spread / (number - 1))) if number > 1 else None,
        "first": values[0],
        "last": values[-1],
        "q95": float(ordered[below] * (1 - part) + above * part),
    }


def _history(table: Path, columns: Sequence[str], keys: Sequence[int]) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = {key: [] for key in keys}
    sql = f"SELECT id, epoch_us(seen_at), {', '.join(columns)} FROM {relation(table)} WHERE id IN (SELECT unnest(?))"
    with duckdb.connect() as connection:
        for key, *row in connection.execute(sql, [list(keys)]).fetchall():
            found[key].append(tuple(row))
    return found
