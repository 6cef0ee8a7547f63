"""The contract of time, said naively: a loop over all rows for every query. Imports nothing from mlray.

A row is a dict of plain values after `select`; instants are int microseconds, of a query nanoseconds, UTC.
Numbers are added as `fractions.Fraction`. Slow on purpose: it states what the engine must give.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

Row = Mapping[str, Any]
Predicate = Callable[[Row], bool | None]


@dataclass(frozen=True, kw_only=True)
class Source:
    timestamp: str | None = "ts"
    known_at: str | None = None
    sequence: str | None = None
    lag: int = 0
    where: Predicate | None = None


@dataclass(frozen=True, kw_only=True)
class Latest:
    """A bare column."""

    column: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """An aggregate over one window; `size=None` is a lifetime, `column=None` counts rows.

    `parameter`: n of the kinds that give lists, q of a quantile as a `Fraction`.
    """

    kind: str
    column: str | None = None
    parameter: Any = None
    size: int | None = None
    offset: int = 0
    closed: str = "left"
    resolution: int | None = None
    where: Predicate | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """`ties`: the columns that the view reads by first mention in its features, then those of its predicates.

    `ttl` in microseconds, both ends in; `closed="left"` keeps a latest value from seeing its own instant.
    """

    source: Source
    features: Mapping[str, Latest | Window]
    keys: tuple[str, ...] = ("k",)
    ties: tuple[str, ...] = ()
    ttl: int | None = None
    closed: str = "right"


def answer(view: View, rows: Sequence[Row], key: tuple[Any, ...], q: int | None) -> dict[str, Any]:
    """Every feature of `key` as of `q` nanoseconds; all null for a null key or instant."""
    if q is None or None in key:
        return dict.fromkeys(view.features)
    known = events(view, rows, key, q // 1000)
    p = q - view.source.lag * 1000
    return {name: _value(view, feature, known, p) for name, feature in view.features.items()}


def statuses(
    view: View, rows: Sequence[Row], key: tuple[Any, ...], q: int, watermark: int | None
) -> tuple[str, int | None, dict[str, str]]:
    """What a read says beside the values: of the newest event that q sees its status and time, and each value's status.
    `watermark`: up to where the rows are known to be all there are.
    """
    clock, p = view.source.timestamp, q - view.source.lag * 1000
    end = p // 1000 if view.closed == "right" else -(-p // 1000) - 1
    known = [] if None in key else events(view, rows, key, q // 1000)
    seen = [row for row in known if clock is None or p // 1000 - horizon(view) <= row[clock] <= end]
    time = seen[-1][clock] if seen and clock else None
    bare = any(isinstance(feature, Latest) for feature in view.features.values())
    old = bare and time is not None and view.ttl is not None and time < p // 1000 - view.ttl
    stale = clock is not None and (watermark is None or q // 1000 > watermark)
    status = "stale" if stale else "missing" if not seen else "expired" if old else "present"
    each = {}
    for name, value in answer(view, rows, key, q).items():
        whole = status if isinstance(view.features[name], Latest) or stale else "present"
        each[name] = "missing" if whole == "present" and value is None else whole
    return status, time, each


def horizon(view: View) -> float:
    """How far before q an event counts as there: as far as the longest window, where there are windows only."""
    spans = [
        math.inf if isinstance(one, Latest) or one.size is None else one.size + one.offset + (one.resolution or 0)
        for one in view.features.values()
    ]
    return max(spans)


def events(view: View, rows: Sequence[Row], key: tuple[Any, ...], known: int) -> list[Row]:
    """The events of `key` as they were known at `known`, in the order of time and ties."""
    source, chosen = view.source, dict[Any, Row]()
    for number, row in enumerate(rows):
        late = source.known_at and (row[source.known_at] is None or row[source.known_at] > known)
        timeless = source.timestamp and row[source.timestamp] is None
        if tuple(row[k] for k in view.keys) != key or late or timeless:
            continue
        sequence = row[source.sequence] if source.sequence else None
        instant = row[source.timestamp] if source.timestamp else None
        event = ("row", number) if sequence is None else ("event", instant, sequence)
        if event not in chosen or _rank(row, (source.known_at, *view.ties)) > _rank(
            chosen[event], (source.known_at, *view.ties)
        ):
            chosen[event] = row
    by_time = (source.timestamp, source.sequence, source.known_at, *view.ties)
    by_knowledge = (source.known_at, source.sequence, *view.ties)
    kept = (row for row in chosen.values() if source.where is None or source.where(row) is True)
    return sorted(kept, key=lambda row: _rank(row, by_time if source.timestamp else by_knowledge))


def _rank(row: Row, columns: Sequence[str | None]) -> list[tuple[int, Any]]:
    return [_place(row[column]) for column in columns if column is not None]


def _place(value: Any) -> tuple[int, Any]:
    """Nulls lowest, NaN highest, -0.0 below 0.0, text by its bytes."""
    if value is None or value != value:
        return (0 if value is None else 2, 0)
    if isinstance(value, float):
        return (1, (value, math.copysign(1.0, value)))
    return (1, value.encode() if isinstance(value, str) else value)


def _value(view: View, feature: Latest | Window, known: Sequence[Row], p: int) -> Any:
    clock = view.source.timestamp
    floor, ceil = p // 1000, -(-p // 1000)
    if isinstance(feature, Latest):
        end = floor if view.closed == "right" else ceil - 1
        start = -math.inf if view.ttl is None else floor - view.ttl
        seen = [row for row in known if clock is None or start <= row[clock] <= end]
        return seen[-1][feature.column] if seen else None
    assert clock is not None
    right = feature.closed == "right"
    end = (floor if right else ceil) - feature.offset
    start = -math.inf if feature.size is None else end - feature.size
    if feature.resolution and feature.size is not None:
        start = start // feature.resolution * feature.resolution
    inside = [row for row in known if (start < row[clock] <= end if right else start <= row[clock] < end)]
    true = [feature.where is None or feature.where(row) is True for row in inside]
    if feature.kind == "share":
        return aggregate("share", true)
    kept = [row for row, holds in zip(inside, true, strict=True) if holds]
    inputs = [row[feature.column] if feature.column else 1 for row in kept]
    return aggregate(feature.kind, inputs, feature.parameter)


def aggregate(kind: str, inputs: Sequence[Any], parameter: Any = None) -> Any:
    """One aggregate of `inputs`, given in the order of time; nulls and NaN do not count."""
    usable = [0.0 if v == 0 and isinstance(v, float) else v for v in inputs if v is not None and v == v]
    if kind in ("count", "count_distinct"):
        return len(usable if kind == "count" else set(usable))
    if not usable:
        return None
    return _AGGREGATES[kind](usable) if parameter is None else _WITH_PARAMETER[kind](usable, parameter)


def _total(values: Sequence[Any], whole: bool = True) -> Any:
    infinite = {v for v in values if isinstance(v, float) and math.isinf(v)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else None
    exact = sum(map(Fraction, values), Fraction(0))
    if whole and all(isinstance(v, int) for v in values):
        if not -(2**63) <= exact < 2**63:
            raise OverflowError(f"the sum {exact} is no int64")
        return int(exact)
    return rounded(exact)


def rounded(exact: Fraction | int) -> float:
    """The nearest double, ties to even; beyond the doubles an infinity."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _mean(values: Sequence[Any]) -> float | None:
    total = _total(values, whole=False)
    return None if total is None else float(total) / len(values)


def _var(values: Sequence[Any]) -> float | None:
    if len(values) < 2 or any(isinstance(v, float) and math.isinf(v) for v in values):
        return None
    exact = [Fraction(v) for v in values]
    centre = sum(exact, Fraction(0)) / len(exact)
    return rounded(sum(((v - centre) ** 2 for v in exact), Fraction(0)) / (len(exact) - 1))


def _std(values: Sequence[Any]) -> float | None:
    var = _var(values)
    return None if var is None else math.sqrt(var)


def _quantile(values: Sequence[Any], q: Fraction) -> float | None:
    ordered, (below, part) = sorted(values), divmod((len(values) - 1) * q, 1)
    ends = [(ordered[below], 1 - part), *([(ordered[below + 1], part)] if part else [])]
    infinite = {v for v, _ in ends if isinstance(v, float) and math.isinf(v)}
    if infinite:
        return infinite.pop() if len(infinite) == 1 else None
    return rounded(sum((Fraction(v) * weight for v, weight in ends), Fraction(0)))


_AGGREGATES: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": _total, "mean": _mean, "var": _var, "std": _std, "min": min, "max": max,
    "first": lambda values: values[0], "last": lambda values: values[-1],
    "median": lambda values: _quantile(values, Fraction(1, 2)),
    "share": lambda values: rounded(Fraction(sum(values), len(values))),
}
_WITH_PARAMETER: dict[str, Callable[[Sequence[Any], Any], Any]] = {
    "quantile": _quantile,
    "first_n": lambda values, n: values[:n],
    "last_n": lambda values, n: values[-n:],
    "last_distinct_n": lambda values, n: list(dict.fromkeys(reversed(values)))[:n],
}
