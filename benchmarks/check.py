"""Whether a result is right: against what SQL gives for the same files, and against exact fractions."""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import data

TOLERANCE = 1e-9
"""How far a float that somebody else added up in another order may lie from the exact sum, relative to 1 or to it."""


@dataclass(frozen=True)
class Verdict:
    """What was compared and how many cells differ."""

    what: str
    rows: int
    cells: int
    different: int

    @property
    def right(self) -> bool:
        return not self.different and self.rows > 0


def same_table(
    what: str, ours: str, theirs: str, exact: Sequence[str], close: Sequence[str] = (), **frames: Any
) -> Verdict:
    """Compares two relations in SQL by their column `id`, unique in theirs: a row that one of them lacks differs.

    exact: columns that must be equal, nulls included; close: within the tolerance, nulls included; frames: Arrow or
    pandas tables that the relations name.
    """
    tests = [f"o.{c} IS DISTINCT FROM t.{c}" for c in exact]
    tests += [
        f"(o.{c} IS NULL) <> (t.{c} IS NULL) OR abs(o.{c} - t.{c}) > {TOLERANCE} * greatest(1, abs(t.{c}))"
        for c in close
    ]
    counts = ", ".join(f"count(*) FILTER ({test})" for test in ["o.id IS DISTINCT FROM t.id", *tests])
    sql = f"SELECT count(*), {counts} FROM ({ours}) o FULL JOIN ({theirs}) t ON o.id = t.id"
    rows, *different = _row(sql, **frames)
    return Verdict(what, rows, rows * len(different), sum(different))


def exact_windows(what: str, lake: Path, ours: str, windows: Sequence[str], rows: int = 5000) -> Verdict:
    """Compares a sample of rows of benchmark B with brute force over Fractions, to the bit."""
    total = _row(f"SELECT count(*) FROM ({ours})")[0]
    chosen = np.sort(np.random.default_rng(data.SEED).choice(total, min(rows, total), replace=False))
    ids = pa.table({"id": chosen})
    with duckdb.connect() as connection:
        connection.register("ids", ids)
        connection.execute(f"CREATE TEMP TABLE sample AS SELECT o.* FROM ({ours}) o SEMI JOIN ids USING (id)")
        answers = connection.sql("SELECT *, epoch_us(timestamp) AS q FROM sample").to_arrow_table().to_pylist()
        events = connection.sql(f"""
            SELECT user_id, epoch_us(bought_at) AS t, v0 FROM {data.relation(lake / "purchases")}
            SEMI JOIN sample USING (user_id)""").fetchall()
    history: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for user, instant, value in events:
        history[user].append((instant, value))
    different = sum(
        not _identical(answer[f"v0_{name}_{w}"], value)
        for answer in answers
        for w in windows
        for name, value in _window(history[answer["user_id"]], answer["q"], data.WINDOWS[w]).items()
    )
    return Verdict(what, len(answers), len(answers) * len(windows) * 4, different)


def _window(events: Sequence[tuple[int, float]], q: int, length: int) -> dict[str, Any]:
    """The contract said naively, for the events in [q - length, q): a sum is rounded once, a mean divides it."""
    held = [value for instant, value in events if q - length <= instant < q]
    if not held:
        return {"sum": None, "count": 0, "mean": None, "max": None}
    total = float(sum(map(Fraction, held), Fraction(0)))
    return {"sum": total, "count": len(held), "mean": total / len(held), "max": max(held)}


def _identical(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return struct.pack("<d", a) == struct.pack("<d", b)


def digest(table: Path) -> str:
    """Names the content of a written training set, whatever the order of its rows and files."""
    parts = [pq.read_table(name) for name in data.files(table)]
    # A file declares the columns in which it happens to hold no null; the table's own schema does not.
    rows = pa.concat_tables(parts, promote_options="permissive").sort_by("id")
    found = hashlib.sha256()
    for name in sorted(rows.column_names):
        column = rows.column(name).combine_chunks()
        numbers = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        found.update(f"{name} {column.type}".encode())
        found.update(np.packbits(pc.is_null(column).to_numpy(zero_copy_only=False)).tobytes())
        found.update(pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()


def _row(sql: str, **frames: Any) -> tuple[int, ...]:
    with duckdb.connect() as connection:
        for name, frame in frames.items():
            connection.register(name, frame)
        connection.sql("SET TimeZone = 'UTC'")
        return tuple(connection.sql(sql).fetchall()[0])
