"""Small adversarial worlds: a source, a view over it and a spine, as plain data; imports nothing from mlray.

Instants lie on a coarse grid with a rare microsecond beside it, so that ties, duplicates and events exactly
at q and at q - W are common. `world(seed, size)` is a pure function; `size` bounds the rows of either side.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from random import Random
from typing import Any

import pyarrow as pa
from oracle import Latest, Predicate, Row, Source, View, Window, answer

Key = tuple[Any, ...]
Query = tuple[Key, int | None]
"""A key and an instant in nanoseconds."""
KeyColumn = tuple[str, pa.DataType, Sequence[Any]]
STEP = 600_000_000
"""Ten minutes in microseconds: one slot of the grid."""
START = 1_772_946_000_000_000
"""2026-03-08T05:00Z: two hours before New York springs forward."""
SLOTS = 16
NAN, INF = math.nan, math.inf
UTC_TIME = pa.timestamp("us", tz="UTC")

PREDICATES: dict[str, tuple[Predicate, tuple[str, ...]]] = {
    "country = 'PT'": (lambda r: None if r["country"] is None else r["country"] == "PT", ("country",)),
    "country IS NULL": (lambda r: r["country"] is None, ("country",)),
    "n >= 1": (lambda r: None if r["n"] is None else r["n"] >= 1, ("n",)),
    "flag": (lambda r: r["flag"], ("flag",)),
    "NOT flag": (lambda r: None if r["flag"] is None else not r["flag"], ("flag",)),
    "n > 0 OR flag": (lambda r: _either(None if r["n"] is None else r["n"] > 0, r["flag"]), ("n", "flag")),
}
"""Row-level SQL, what it means, and the columns that it reads."""

VALUES: dict[str, Sequence[Any]] = {
    "price": [0.1, 0.2, 0.3, 1.5, -2.5, 0.0, 1e9, 1e9 + 1e-7, 3.0, NAN, None],
    "amount": [
        1e-300,
        1e300,
        -1e300,
        1e19,
        -1e19,
        0.1,
        1.0,
        5e-324,
        1.7976931348623157e308,
        -0.0,
        0.0,
        NAN,
        None,
    ],
    "wild": [INF, -INF, 1.5, -0.0, 2.5, NAN, None, 1e308, -2.0],
    "n": [0, 1, 2, 3, -5, 1, 2, None],
    "big": [2**62, 2**62 - 1, -(2**62), 2**62 + 1, 2**53 + 1, -1, None],
    "country": ["PT", "PT", "DE", "", "é", "Z", "\U0001f600", "\uffee", None],
    "flag": [True, False, None],
    "day": [0, 19_000, -1, None],
    "seen": [START, START + 1, 0, -1, None],
    "fee": [Decimal("0.10"), Decimal("0.20"), Decimal("-3.05"), Decimal("0.00"), Decimal("9999999999.99"), None],
    "debt": [Decimal("1E+30"), Decimal("-1E+30"), Decimal("0.0001"), Decimal("18446744073709551.6160"), None],
    "ratio": [0.5, 0.10000000149011612, -0.0, 0.0, INF, 3.4028234663852886e38, NAN, None],
    "tiny": [-128, 127, 0, 1, None],
    "blob": [b"", b"a", b"a\x00", b"\xff", None],
}
TYPES: dict[str, pa.DataType] = {
    "price": pa.float64(),
    "amount": pa.float64(),
    "wild": pa.float64(),
    "n": pa.int64(),
    "big": pa.int64(),
    "country": pa.string(),
    "flag": pa.bool_(),
    "day": pa.date32(),
    "seen": UTC_TIME,
    "fee": pa.decimal128(12, 2),
    "debt": pa.decimal128(38, 4),
    "ratio": pa.float32(),
    "tiny": pa.int8(),
    "blob": pa.binary(),
}
NUMERIC = ("price", "amount", "wild", "n", "big", "fee", "debt", "ratio", "tiny", "flag")
KEYS: dict[str, tuple[KeyColumn, ...]] = {
    "int": (("user", pa.int64(), [0, 7, -1, 2**62]),),
    "string": (("user", pa.string(), ["", "a", "ab", "é"]),),
    "mixed": (("user", pa.int64(), [1, 11]), ("shop", pa.string(), ["", "1", "11"])),
    "strings": (("user", pa.string(), ["a", "ab", ""]), ("shop", pa.string(), ["b", "", "a\x00b", "|b"])),
}
SPINE_KEY_TYPES = {
    pa.int64(): [pa.int64(), pa.int64(), pa.int16()],
    pa.string(): [pa.string(), pa.large_string()],
}
SPINE_TIMES = [
    (pa.timestamp("us", tz="UTC"), 1_000),
    (pa.timestamp("us"), 1_000),
    (pa.timestamp("us", tz="America/New_York"), 1_000),
    (pa.timestamp("ns", tz="UTC"), 1),
    (pa.timestamp("ns"), 1),
    (pa.timestamp("ms", tz="Asia/Kolkata"), 1_000_000),
]
LIST_KINDS = ("first_n", "last_n", "last_distinct_n")
ORDERED_KINDS = ("min", "max", "first", "last", "count", "count_distinct", *LIST_KINDS)
"""Over a column of any type."""
NUMBER_KINDS = ("sum", "mean", "var", "std", "quantile", "median", *ORDERED_KINDS)
ROW_KINDS = ("count", "share")
"""Without a column."""
KINDS = tuple(dict.fromkeys((*NUMBER_KINDS, *ROW_KINDS)))
PARAMETERS: dict[str, Sequence[Mapping[str, Any]]] = {
    "quantile": [{"q": q} for q in (0.5, 0.95, 0, 0.001, 1, 0.25)],
    **{kind: [{"n": n} for n in (2, 1, 5)] for kind in LIST_KINDS},
}
"""What a kind takes besides a column and windows."""
FAR = (STEP, 3 * STEP, 6 * STEP, 144 * STEP, 144 * STEP, None)
NEAR = (STEP, 2 * STEP, 3 * STEP)


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """`kind(column, windows=sizes, ...)` as a user writes it; `name` is the stem, or of one size the name.

    `parameters`: what the kind takes besides, n or q.
    """

    kind: str
    column: str | None
    sizes: tuple[int | None, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    offset: int = 0
    closed: str = "left"
    resolution: int = 0
    where: str | None = None
    name: str | None = None

    def windows(self) -> Iterator[tuple[str, Window]]:
        """Each feature's name and meaning."""
        stem = self.name or (f"{self.column}_{self.kind}" if self.column else self.kind)
        for size in self.sizes:
            before = f"_before_{duration(self.offset)}" if self.offset else ""
            full = f"{stem}_{duration(size)}{before}"
            name = self.name if self.name and len(self.sizes) == 1 else full
            where = PREDICATES[self.where][0] if self.where else None
            q = Fraction(str(self.parameters["q"])) if "q" in self.parameters else None
            yield (
                name,
                Window(
                    kind=self.kind,
                    column=self.column,
                    parameter=self.parameters.get("n", q),
                    size=size,
                    offset=self.offset,
                    closed=self.closed,
                    resolution=self.resolution or None,
                    where=where,
                ),
            )


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that one comparison needs. `rows` are the source's after `select`, `table` its raw rows."""

    view: View
    features: Sequence[str | Aggregate]
    select: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    rows: Sequence[Row]
    table: pa.Table
    spine: pa.Table
    queries: Sequence[Query]


def world(
    seed: int, size: int = 60, *, timeless: bool | None = None, features: Sequence[str | Aggregate] | None = None
) -> World:
    """One world; a source with or without a timestamp, and features, by the seed where they are None."""
    rng = Random(seed)
    keys = KEYS[rng.choice(sorted(KEYS))]
    known = [tuple(rng.choice(values) for _, _, values in keys) for _ in range(rng.choice([1, 2, 3]))]
    has_time = rng.random() < 0.9 if timeless is None else not timeless
    source, where = _source(rng, has_time)
    features = _features(rng, has_time) if features is None else features
    raw, types = _history(rng, keys, known, source, size)
    select = {"half": "price * 0.5", "n": "n + 1"} if rng.random() < 0.3 else {}
    rows = [{**row, "half": _half(row["price"]), "n": _next(row["n"])} for row in raw] if select else raw
    if select and has_time:
        features = [*features, Aggregate(kind="sum", column="half", sizes=(3 * STEP, None))]
    view = View(
        source=source,
        keys=tuple(name for name, _, _ in keys),
        ties=ties(features, where),
        features=dict(_meanings(features)),
        closed=rng.choice(["right", "right", "left"]) if has_time else "right",
        ttl=rng.choice([None, STEP, 3 * STEP]) if has_time else None,
    )
    spine, queries = _spine(rng, keys, known, source.lag, size)
    return World(
        view=view,
        features=features,
        select=select,
        where=where,
        rows=rows,
        spine=spine,
        queries=queries,
        table=pa.table({name: pa.array([row[name] for row in raw], type_) for name, type_ in types.items()}),
    )


def every_window() -> list[str | Aggregate]:
    """Every aggregate over every kind of window, and bare columns."""
    windows: list[dict[str, Any]] = [
        {},
        {"closed": "right"},
        {"offset": STEP},
        {"resolution": 6 * STEP},
        {"closed": "right", "offset": 2 * STEP, "resolution": 3 * STEP},
        {"where": "country = 'PT'"},
        {"sizes": (None,)},
        {"sizes": (None,), "offset": STEP, "closed": "right", "where": "flag"},
    ]
    columns: dict[str, Sequence[str | None]] = dict.fromkeys(NUMBER_KINDS, ("price", "amount", "n", "fee"))
    columns |= dict.fromkeys(ORDERED_KINDS, ("wild", "country", "seen", "debt"))
    columns["share"] = (None,)
    made: list[str | Aggregate] = ["price", "country", "amount"]
    for kind, (number, options) in product(KINDS, enumerate(windows)):
        column = columns[kind][number % len(columns[kind])]
        given = {"sizes": (3 * STEP,), **({"where": "n >= 1"} if kind == "share" else {}), **options}
        parameters = PARAMETERS.get(kind, [{}])[number % len(PARAMETERS.get(kind, [{}]))]
        made.append(Aggregate(kind=kind, column=column, name=f"{kind}{number}", parameters=parameters, **given))
    return made


def lean(seed: int) -> list[str | Aggregate]:
    """One bare column, or one aggregate over a short window: what needs little of the past."""
    rng = Random(seed)
    return [rng.choice(sorted(VALUES))] if rng.random() < 0.6 else [_aggregate(rng, "f", far=False)]


def split(world: World) -> list[World]:
    """The same events behind one view per feature, of which each needs less of them."""
    parts = []
    for feature in world.features:
        view = replace(world.view, features=dict(_meanings([feature])), ties=ties([feature], world.where))
        parts.append(replace(world, view=view, features=[feature]))
    return parts


def everywhere(world: World) -> World:
    """The same events and instants behind a view of one global row."""
    return replace(world, view=replace(world.view, keys=()), queries=[((), q) for _, q in world.queries])


def expected(world: World) -> list[dict[str, Any]]:
    """The oracle's answer to every spine row."""
    answers: dict[Any, dict[str, Any]] = {}
    for key, q in world.queries:
        if (key, q) not in answers:
            answers[key, q] = answer(world.view, world.rows, key, q)
    return [answers[query] for query in world.queries]


def differences(world: World, got: pa.Table, wanted: Sequence[Row], prefix: str = "") -> list[str]:
    """Every cell that is not the expected one to the bit, as text."""
    assert got.num_rows == len(wanted), f"{got.num_rows} rows for {len(wanted)} queries"
    found = []
    for name in world.view.features:
        for i, value in enumerate(plain(got[prefix + name])):
            if bits(value) != bits(wanted[i][name]):
                found.append(f"{name} of row {i} {world.queries[i]}: {value!r}, expected {wanted[i][name]!r}")
    return found


def bits(value: Any) -> Any:
    """A value as its equality means here: floats by their bits, all NaN alike, no int equal to a float; so in lists."""
    if isinstance(value, list):
        return [bits(inner) for inner in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("<d", value)
    return (type(value), value)


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Python values; instants as int microseconds, dates as int days, so in lists."""
    values: list[Any] = column.cast(_counted(column.type)).to_pylist()
    return values


def _counted(kind: pa.DataType) -> pa.DataType:
    """The type in which a value of this one, if it is a time in microseconds or a date, is a count."""
    if pa.types.is_list(kind):
        return pa.list_(_counted(kind.value_type))
    if pa.types.is_timestamp(kind):
        return pa.int64()
    return pa.int32() if pa.types.is_date32(kind) else kind


def ties(features: Sequence[str | Aggregate], where: str | None) -> tuple[str, ...]:
    """The tie order: columns by first mention in `features`, then those of the predicates."""
    read = [f if isinstance(f, str) else f.column for f in features]
    predicates = [f.where for f in features if not isinstance(f, str)] + [where]
    tested = [column for text in predicates if text for column in PREDICATES[text][1]]
    return tuple(dict.fromkeys(column for column in [*read, *tested] if column))


def duration(length: int | None) -> str:
    """The name of a window's length."""
    if length is None:
        return "lifetime"
    units = {"d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
    unit = next(unit for unit, size in units.items() if length % size == 0)
    return f"{length // units[unit]}{unit}"


def _either(a: bool | None, b: bool | None) -> bool | None:
    return True if a or b else None if a is None or b is None else False


def _half(price: float | None) -> float | None:
    return None if price is None else price * 0.5


def _next(n: int | None) -> int | None:
    return None if n is None else n + 1


def _meanings(features: Sequence[str | Aggregate]) -> Iterator[tuple[str, Latest | Window]]:
    for feature in features:
        if isinstance(feature, str):
            yield feature, Latest(column=feature)
        else:
            yield from feature.windows()


def _source(rng: Random, has_time: bool) -> tuple[Source, str | None]:
    where = _predicate(rng)
    return Source(
        timestamp="ts" if has_time else None,
        known_at=rng.choice([None, "known"]),
        sequence=rng.choice([None, "seq"]),
        lag=rng.choice([0, 0, STEP, 2 * STEP, 7]) if has_time else 0,
        where=PREDICATES[where][0] if where else None,
    ), where


def _predicate(rng: Random) -> str | None:
    return rng.choice(sorted(PREDICATES)) if rng.random() < 0.3 else None


def _features(rng: Random, has_time: bool) -> list[str | Aggregate]:
    """Some bare columns and aggregates; half of the worlds look back a short way only, and old rows do not matter."""
    columns = rng.sample(sorted(VALUES), k=rng.choice([0, 1, 3, 3]) if has_time else 3)
    count = rng.choice([0 if columns else 1, 3, 14, 14]) if has_time else 0
    far = rng.random() < 0.5
    return [*columns, *(_aggregate(rng, f"f{i}", far) for i in range(count))]


def _aggregate(rng: Random, name: str, far: bool) -> Aggregate:
    column = rng.choice([None, None, *VALUES, *NUMERIC])
    kinds = ROW_KINDS if column is None else NUMBER_KINDS if column in NUMERIC else ORDERED_KINDS
    kind = rng.choice([k for k in kinds if (k, column) != ("sum", "big")])
    return Aggregate(
        kind=kind,
        column=column,
        name=name,
        parameters=rng.choice(PARAMETERS.get(kind, [{}])),
        sizes=tuple(dict.fromkeys(rng.choices(FAR if far else NEAR, k=rng.choice([1, 1, 2])))),
        offset=rng.choice([0, 0, 0, STEP, 6 * STEP if far else 2 * STEP]),
        closed=rng.choice(["left", "left", "right"]),
        resolution=rng.choice([0, 0, 0, 3 * STEP, 6 * STEP if far else 2 * STEP]),
        where=rng.choice(sorted(PREDICATES)) if kind == "share" else _predicate(rng),
    )


def _history(
    rng: Random, keys: Sequence[KeyColumn], known: Sequence[Key], source: Source, size: int
) -> tuple[list[dict[str, Any]], dict[str, pa.DataType]]:
    """Raw rows and their types; some rows correct or repeat an earlier one."""
    text = rng.random() < 0.3
    rows: list[dict[str, Any]] = []
    for _ in range(rng.randint(size // 2, size)):
        old = rng.choice(rows) if rows else None
        if old and rng.random() < 0.05:
            rows.append(dict(old))
            continue
        row: dict[str, Any] = dict(zip((name for name, _, _ in keys), rng.choice(known), strict=True))
        if rng.random() < 0.05:
            row[rng.choice(list(row))] = None
        row["ts"] = None if rng.random() < 0.03 else _instant(rng)
        sequence = rng.choice([None, 1, 2, 3, 9, 10])
        row["seq"] = str(sequence) if text and sequence else sequence
        if old and rng.random() < 0.35:
            row.update({name: old[name] for name in (*(k[0] for k in keys), "ts", "seq")})
        row["known"] = _knowledge(rng, row["ts"])
        rows.append(row | {column: rng.choice(values) for column, values in VALUES.items()})
    clock = rng.choice([UTC_TIME, pa.timestamp("us")])
    types = {name: type_ for name, type_, _ in keys} | {
        "ts": clock,
        "seq": pa.string() if text else pa.int64(),
    }
    types |= {"known": clock} | TYPES
    hidden = {"known": source.known_at is None, "ts": source.timestamp is None}
    return rows, {name: type_ for name, type_ in types.items() if not hidden.get(name)}


def _instant(rng: Random) -> int:
    return START + rng.randrange(SLOTS) * STEP + rng.choice([0] * 8 + [1, -1])


def _knowledge(rng: Random, instant: int | None) -> int | None:
    delay = rng.choice([0, 0, 0, STEP, 3 * STEP, 6 * STEP, -STEP, 100 * STEP, None])
    return None if delay is None else (_instant(rng) if instant is None else instant) + delay


def _spine(
    rng: Random, keys: Sequence[KeyColumn], known: Sequence[Key], lag: int, size: int
) -> tuple[pa.Table, list[Query]]:
    """A spine with repeated, unmatched and null rows, and what each of its rows asks."""
    clock, unit = rng.choice(SPINE_TIMES)
    unknown: dict[Any, Any] = {pa.int64(): 99, pa.string(): "nobody"}
    queries: list[Query] = []
    for _ in range(rng.randint(size // 2, size)):
        if queries and rng.random() < 0.1:
            queries.append(rng.choice(queries))
            continue
        key = rng.choice(known)
        if rng.random() < 0.15:
            key = tuple(rng.choice([*values, None, unknown[type_]]) for _, type_, values in keys)
        q = (_instant(rng) + rng.choice([0, lag])) * 1_000 + rng.choice([0, 0, 1, 999, 500])
        queries.append((key, None if rng.random() < 0.05 else q // unit * unit))
    asked: dict[str, pa.Array] = {}
    for i, (name, type_, _) in enumerate(keys):
        choice = rng.choice(SPINE_KEY_TYPES[type_])
        column = [key[i] for key, _ in queries]
        small = all(v is None or isinstance(v, str) or -(2**15) <= v < 2**15 for v in column)
        asked[name] = pa.array(column, choice if small else type_)
    asked["timestamp"] = pa.array([None if q is None else q // unit for _, q in queries], clock)
    asked["label"] = pa.array([rng.random() for _ in queries])
    return pa.table(asked), queries
