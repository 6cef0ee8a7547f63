"""The gate `data_validation`: is the training set what its team says that it is? A Pandera schema on Polars, declared
beside the features, block by block; and what only the whole can tell.

A block is validated by the task that holds it, so a check of the schema sees one block of rows. What is about all rows
is declared in `metadata` and counted over the blocks: `max_null_share` of a column, `min_rows` of the schema, and
uniqueness (`unique=`), for which rows meet by the hash of their key.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from numpy.typing import NDArray

from mlray._ray_compat import mlray_errors
from mlray.gates.extra import imported
from mlray.gates.result import Result
from mlray.gates.settings import DataValidation
from mlray.offline.spine import ROW
from mlray.offline.tasks import started
from mlray.offline.tasks import task as ray_task

ROWS_PER_BUCKET = 1 << 20
EXAMPLES = 3


@dataclass(slots=True)
class Seen:
    """Of any set of rows. failures: how often each (column, check) failed, with examples of what it had."""

    rows: int = 0
    nulls: Counter[str] = field(default_factory=Counter)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, other: "Seen") -> None:
        self.rows += other.rows
        self.nulls.update(other.nulls)
        self.failures.update(other.failures)
        for key, values in other.examples.items():
            self.examples[key] = list(dict.fromkeys([*self.examples.get(key, []), *values]))[:EXAMPLES]


def validate(blocks: Sequence[Any], schema: Any, config: DataValidation, previous: tuple[str, int] | None) -> Result:
    """The result over blocks in the object store. schema: of Pandera, or None; previous: a name of the previous
    training set, and its rows.
    """
    with mlray_errors():
        seen = merged(ray.get(started(partial(_observed.remote, block, schema) for block in blocks)))
        buckets = max(-(-seen.rows // ROWS_PER_BUCKET), 1)
        keys = [columns for columns in unique_keys(schema) if set(columns) <= set(seen.nulls)]
        repeated = {columns: _repeated(blocks, columns, buckets) for columns in keys}
    return judged(seen, repeated, schema, config, previous)


def judged(
    seen: Seen,
    repeated: Mapping[tuple[str, ...], int],
    schema: Any,
    config: DataValidation,
    previous: tuple[str, int] | None,
) -> Result:
    """The result of what was counted. repeated: per unique key, the rows beyond the first of their key."""
    problems = [
        *_empty(seen),
        *(
            f"{column}: {check} fails in {count:,} rows{_such_as(seen.examples.get((column, check), []))}"
            for (column, check), count in sorted(seen.failures.items())
        ),
        *(f"{', '.join(columns)}: {count:,} rows repeat a key" for columns, count in repeated.items() if count),
        *_null_shares(seen, schema),
        *_row_counts(seen.rows, schema, config, previous),
    ]
    nulls = {name: count / seen.rows if seen.rows else 0.0 for name, count in seen.nulls.items() if count}
    notes = [f"{name} is missing in every row" for name, share in nulls.items() if share == 1]
    return Result(
        passed=not problems,
        value=float(len(problems)),
        threshold=0.0,
        problems=tuple(problems),
        notes=tuple(notes),
        details={
            "rows": seen.rows,
            "null_shares": nulls,
            "previous": list(previous or ()),
            "checked": schema is not None,
        },
    )


def observe(block: pa.Table, schema: Any) -> Seen:
    """What one block tells; every failing check of the schema, not the first."""
    block = block.drop_columns([ROW]) if ROW in block.column_names else block
    seen = Seen(
        rows=block.num_rows, nulls=Counter({name: block.column(name).null_count for name in block.column_names})
    )
    if schema is None:
        return seen
    errors = imported("pandera.errors", extra="validation", who="[gates.data_validation] schema")
    frame = pl.DataFrame(pl.from_arrow(block))
    try:
        without_uniqueness(schema).validate(frame, lazy=True)
    except errors.SchemaErrors as error:
        for case in error.failure_cases.iter_rows(named=True):
            column = case["column"] or (case["failure_case"] if case["schema_context"] == "DataFrameSchema" else "")
            key = (str(column or "the table"), str(case["check"]))
            seen.failures[key] += 1 if case["index"] is not None else max(block.num_rows, 1)
            shown = seen.examples.setdefault(key, [])
            if len(shown) < EXAMPLES and str(case["failure_case"]) not in shown:
                shown.append(str(case["failure_case"]))
    return seen


def merged(many: Iterable[Seen]) -> Seen:
    """Of the union of the rows."""
    whole = Seen()
    for one in many:
        whole.add(one)
    return whole


def unique_keys(schema: Any) -> list[tuple[str, ...]]:
    """The columns, or lists of columns, that the schema says to be unique."""
    if schema is None:
        return []
    whole = [schema.unique] if isinstance(schema.unique, str) else list(schema.unique or ())
    return [(name,) for name, column in schema.columns.items() if column.unique] + ([tuple(whole)] if whole else [])


def without_uniqueness(schema: Any) -> Any:
    """The same schema, but for uniqueness: a block does not see the other rows."""
    columns = {name: {"unique": False} for name, column in schema.columns.items() if column.unique}
    changed = copy.copy(schema.update_columns(columns) if columns else schema)
    changed.unique = None
    return changed


def key_hashes(block: pa.Table, columns: Sequence[str], buckets: int) -> list[NDArray[np.uint64]]:
    """(n, 2) hashes of the rows' keys, by bucket: 128 bits, so that two keys are not taken for one by chance."""
    frame = pl.DataFrame(pl.from_arrow(block.select(list(columns))))
    pair = np.stack([frame.hash_rows(seed=seed).to_numpy() for seed in (1, 2)], axis=1)
    place = pair[:, 0] % np.uint64(buckets)
    return [pair[place == np.uint64(bucket)] for bucket in range(buckets)]


def repeated_in(pairs: Sequence[NDArray[np.uint64]]) -> int:
    """The rows beyond the first of their key."""
    every = np.concatenate(pairs)
    return len(every) - len(np.unique(every, axis=0))


@ray_task
def _observed(block: pa.Table, schema: Any) -> Seen:
    return observe(block, schema)


def _repeated(blocks: Sequence[Any], columns: tuple[str, ...], buckets: int) -> int:
    cut: Any = _hashed.options(num_returns=buckets)
    pieces = started(partial(cut.remote, block, columns, buckets) for block in blocks)
    by_bucket = [[piece[i] if buckets > 1 else piece for piece in pieces] for i in range(buckets)]
    return int(sum(ray.get(started(partial(_counted.remote, *refs) for refs in by_bucket))))


@ray_task
def _hashed(block: pa.Table, columns: tuple[str, ...], buckets: int) -> Any:
    found = key_hashes(block, columns, buckets)
    return found if buckets > 1 else found[0]


@ray_task
def _counted(*pairs: NDArray[np.uint64]) -> int:
    return repeated_in(pairs)


def _empty(seen: Seen) -> Iterator[str]:
    if not seen.rows:
        yield "the training set has no row"


def _null_shares(seen: Seen, schema: Any) -> Iterator[str]:
    for name, column in ({} if schema is None else schema.columns).items():
        allowed = (column.metadata or {}).get("max_null_share")
        share = seen.nulls[name] / seen.rows if seen.rows else 0.0
        if allowed is not None and share > allowed:
            yield f"{name}: {share:.2%} of its values are missing, allowed are {allowed:.2%}"


def _row_counts(rows: int, schema: Any, config: DataValidation, previous: tuple[str, int] | None) -> Iterator[str]:
    least = (getattr(schema, "metadata", None) or {}).get("min_rows", 0)
    if rows < least:
        yield f"the training set has {rows:,} rows, needed are {least:,}"
    if previous is None or config.max_row_change is None or not previous[1]:
        return
    change = rows / previous[1] - 1
    if abs(change) > config.max_row_change:
        yield (
            f"the training set has {rows:,} rows, {change:+.0%} beside the {previous[1]:,} of run {previous[0]}; "
            f"allowed is a change of {config.max_row_change:.0%}"
        )


def _such_as(examples: Sequence[str]) -> str:
    return f", such as {', '.join(examples)}" if examples else ""
