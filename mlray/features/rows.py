"""From rows of a source to the events of a view: the same pure function for a table file, a push and a replay.

Events are an Arrow table: the entity's keys in key types, `__ts` (int64 microseconds; 0 without a timestamp), `__known`
and `__seq` where the source declares them, `__keep` (the source's `where`, kept as a column where a `sequence` lets a
later version of an event replace this one), and every column that the view reads.
"""

from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from mlray.aggregation.aggregate import Aggregate
from mlray.errors import DefinitionError, SchemaError
from mlray.features.expression import compute, mentioned, parsed, predicate
from mlray.features.types import canonical, is_plain_decimal, key_type, microseconds_of
from mlray.features.view import FeatureView

TS, KNOWN, SEQ, KEEP = "__ts", "__known", "__seq", "__keep"
_CONDITION = "__if_"
_TAKEN = (TS, KNOWN, SEQ, KEEP, "__commit")
"""Columns that events have besides those that are read; the last one in an online store."""


def read_columns(view: FeatureView) -> list[str]:
    """The columns that decide a tie, in its order: those of the features by first mention, then those of `where`."""
    features = [f if isinstance(f, str) else f.column for f in view.features]
    named = [c for who, sql in _wheres(view) for c in mentioned(sql, who)]
    return list(dict.fromkeys(c for c in features + named if c))


def raw_columns(view: FeatureView) -> list[str]:
    """The columns of the source's table that the view needs."""
    source = view.source
    times = [c for c in (source.timestamp, source.known_at, source.sequence) if c]
    wanted = list(dict.fromkeys([*view.keys, *times, *read_columns(view)]))
    roots = [r for c in wanted for r in (mentioned(source.select[c], _select(view, c)) if c in source.select else [c])]
    return list(dict.fromkeys(roots))


def check_expressions(view: FeatureView) -> None:
    """DefinitionError where a `select` or `where` of the view is no row-level SQL, or a column that it reads has a name
    that events have for something else; needs no table.
    """
    selects = [(_select(view, column), sql) for column, sql in view.source.select.items()]
    for who, sql in selects + _wheres(view):
        parsed(sql, who)
    for column in (*view.keys, *read_columns(view)):
        if column in _TAKEN or column.startswith(_CONDITION):
            raise DefinitionError(
                f"{_who(view)}: the column '{column}' has a name that mlray gives to something of its own; give it "
                f"another one: select={{'{column.strip('_')}': '{column}'}}"
            )


def events(view: FeatureView, rows: pa.Table) -> pa.Table:
    """The view's events in `rows`. Rows without event time, known_at or an entity key are left out: none is
    ever read.
    """
    who, source = _who(view), view.source
    selected = _selected(view, rows)
    parts = {
        key: selected.column(key).cast(key_type(selected.schema.field(key).type, f"{who}: column '{key}'"))
        for key in view.keys
    }
    parts[TS] = _time(selected, source.timestamp, who) if source.timestamp else _zeros(rows.num_rows)
    if source.known_at:
        parts[KNOWN] = _time(selected, source.known_at, who)
    present = [pc.is_valid(parts[c]) for c in [*view.keys, TS, *([KNOWN] if source.known_at else [])]]
    if source.sequence:
        parts[SEQ] = canonical(selected.column(source.sequence))
    keep = predicate(selected, source.where, f"source {source.name}: where") if source.where else None
    if keep is not None and source.sequence:
        parts[KEEP] = keep
    elif keep is not None:
        present.append(keep)
    parts |= {column: canonical(selected.column(column)) for column in read_columns(view) if column not in parts}
    mask = present[0]
    for other in present[1:]:
        mask = pc.and_(mask, other)
    table = pa.table(parts)
    return table if pc.all(mask).as_py() is not False else table.filter(mask)


def condition_name(sql: str) -> str:
    """The column in which an event carries whether an aggregate's `where` holds of it."""
    return f"{_CONDITION}{blake2b(sql.encode(), digest_size=8).hexdigest()}"


def where_of(view: FeatureView, aggregate: Aggregate) -> str:
    """Names an aggregate's condition, in a message."""
    named = f", feature '{aggregate.name}'" if aggregate.name else ""
    return f"{_who(view)}: where of {aggregate.stem}{named}, source {view.source.name}"


def with_conditions(view: FeatureView, events: pa.Table) -> pa.Table:
    """The events, and for each `where` of an aggregate a bool column: a later read needs no SQL."""
    conditions = {a.where: where_of(view, a) for a in view.aggregates if a.where}
    for sql, who in conditions.items():
        events = events.append_column(condition_name(sql), predicate(events, sql, who))
    return events


def event_schema(view: FeatureView, raw: pa.Schema) -> pa.Schema:
    """The schema of `events` for a table of schema `raw`; SchemaError where the view does not fit it."""
    schema: pa.Schema = events(view, raw.empty_table()).schema
    for aggregate in view.aggregates:
        if aggregate.column and pa.types.is_nested(schema.field(aggregate.column).type):
            raise SchemaError(
                f"{_who(view)}: {type(aggregate).__name__} needs single values, but column '{aggregate.column}' is "
                f"{schema.field(aggregate.column).type}; a column of lists or structs can only be a bare column"
            )
        if aggregate.numeric and not _is_number(schema.field(aggregate.column).type):
            raise SchemaError(
                f"{_who(view)}: {type(aggregate).__name__} needs numbers, but column '{aggregate.column}' is "
                f"{schema.field(aggregate.column).type}; cast it: select={{'{aggregate.column}': "
                f"'CAST({aggregate.column} AS DOUBLE)'}}"
            )
    return schema


def _selected(view: FeatureView, rows: pa.Table) -> pa.Table:
    """The rows with the source's `select` applied; every expression sees the raw columns."""
    wanted = [c for c in view.source.select if c in {*view.keys, *_times(view), *read_columns(view)}]
    for column in raw_columns(view):
        if column not in rows.column_names:
            raise SchemaError.missing_column(
                _who(view), column, f"source {view.source.name} ({view.source.path})", rows.column_names
            )
    if not wanted:
        return rows
    made = {c: compute(rows, {c: view.source.select[c]}, _select(view, c)).column(c) for c in wanted}
    for column in wanted:
        index = rows.schema.get_field_index(column)
        cells = made[column]
        rows = rows.append_column(column, cells) if index < 0 else rows.set_column(index, column, cells)
    return rows


def _wheres(view: FeatureView) -> list[tuple[str, str]]:
    """Who says it and the text, in the order of the tie."""
    own = [(where_of(view, a), a.where) for a in view.aggregates if a.where]
    return own + ([(f"source {view.source.name}: where", view.source.where)] if view.source.where else [])


def _select(view: FeatureView, column: str) -> str:
    return f"source {view.source.name}: select '{column}', {_who(view)}"


def _times(view: FeatureView) -> list[str]:
    return [c for c in (view.source.timestamp, view.source.known_at, view.source.sequence) if c]


def _time(rows: pa.Table, column: str, who: str) -> pa.ChunkedArray:
    return microseconds_of(rows.column(column), f"{who}: column '{column}'")


def _zeros(length: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(0, pa.int64()), length)])


def _is_number(kind: pa.DataType) -> bool:
    counts = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return bool(counts or pa.types.is_floating(kind) or is_plain_decimal(kind))


def _who(view: FeatureView) -> str:
    return f"feature view {view.name}"
