"""Row-level SQL: Polars' dialect, one row in, one value out, the same value at any time and in any company."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from io import StringIO
from typing import Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from mlray.errors import DefinitionError, SchemaError, TransformationFailed

_TEXT = re.compile(r"'(?:[^']|'')*'")
_QUOTED = re.compile(r'"[^"]*"')
_CLOCK = re.compile(
    r"\b(?:current_timestamp|current_date|current_time|localtime|localtimestamp)\b|\b(?:now|today|random|rand|uuid)\s*\(",
    re.I,
)

_MANY_ROWS = re.compile(
    r"Agg|Over|Window|Len|Sort|SortBy|Gather|Filter|Explode|Slice|.*Range|Shift.*|Cum.*|Rolling.*|Ewm.*|Rank|Diff|Reverse"
    r"|Random|Sample|Shuffle|Unique.*|TopK.*|PctChange|FillNullWithStrategy|Interpolate.*|Mode|Skew|Kurtosis|ValueCounts"
    r"|Drop(Nulls|Nans)|Any|All|NullCount|Quantile.*|Cov.*|.*Correlation|Pearson.*|Spearman.*"
)
"""Names of Polars' expression nodes and functions that look at other rows, as `meta.serialize` writes them."""
_COUNTS = re.compile(
    r"Hour|Minute|.*Second|Day|Month|Year|Quarter|Week|WeekDay|OrdinalDay|IsoYear|Century|Millennium"
    r"|LenChars|LenBytes|Find|Length|CountOnes|CountZeros|Leading.*|Trailing.*"
)
"""Functions of times, texts, lists and bits whose results are integers of few bits, or without a sign."""
_WIDENED = json.loads(pl.col("").cast(pl.Int64).meta.serialize(format="json"))


@lru_cache(maxsize=1024)
def parsed(sql: str, who: str) -> pl.Expr:
    """The expression; DefinitionError where it does not parse, or is an aggregate, a window, a clock or random."""
    if clock := _CLOCK.search(_QUOTED.sub("", _TEXT.sub("", sql))):
        name = clock.group().rstrip("( ")
        raise DefinitionError(
            f"{who}: {sql!r} calls {name}, whose value changes from run to run; use a column of the row instead"
        )
    try:
        expression = pl.sql_expr(sql)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError) as error:
        raise DefinitionError(f"{who}: {sql!r} is not row-level SQL (Polars' dialect): {error}") from error
    if '"format":null' in expression.meta.serialize(format="json"):
        raise DefinitionError(
            f"{who}: {sql!r} guesses the format of a time from the first row it meets; name it: DATE(text, '%Y-%m-%d')"
        )
    if expression.meta.has_multiple_outputs():
        raise DefinitionError(f"{who}: {sql!r} names several columns at once; name the one that is meant")
    nodes = json.loads(expression.meta.serialize(format="json"))
    if any(_MANY_ROWS.fullmatch(name) for name in _node_names(nodes)):
        raise DefinitionError(
            f"{who}: {sql!r} looks at more than one row; row-level SQL has no aggregates and no windows: declare an "
            "aggregation with a window instead"
        )
    wide = _widened(nodes)
    return expression if wide == nodes else pl.Expr.deserialize(StringIO(json.dumps(wide)), format="json")


def mentioned(sql: str, who: str) -> list[str]:
    """The columns that an expression reads, in order of first mention in its text."""
    names = dict.fromkeys(parsed(sql, who).meta.root_names())
    return sorted(names, key=lambda name: _first_mention(name, sql))


def compute(table: pa.Table, expressions: dict[str, str], who: str) -> pa.Table:
    """The expressions over the table's columns: one column each, as many rows as the table.

    SchemaError names a column that is not there; TransformationFailed carries the engine's own message and the row
    count.
    """
    made = {name: parsed(sql, who) for name, sql in expressions.items()}
    columns = list(dict.fromkeys(c for e in made.values() for c in e.meta.root_names()))
    for column in columns:
        if column not in table.column_names:
            raise SchemaError.missing_column(who, column, "the table", table.column_names)
    frame = _frame(table, columns)
    try:
        result = frame.select(pl.repeat(0, len(frame)).alias(""), *(e.alias(name) for name, e in made.items()))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise TransformationFailed(f"{who}: {expressions} failed over {table.num_rows} rows: {error}") from error
    for name, kind in result.schema.items():
        if kind == pl.Int128:
            raise SchemaError(f"{who}: {expressions[name]!r} gives integers beyond 64 bits; cast to BIGINT or DOUBLE")
    return result.drop("").with_columns(_no_new_decimals(frame)).to_arrow().slice(0, table.num_rows)


def _frame(table: pa.Table, columns: list[str]) -> pl.DataFrame:
    """The columns, each in one piece and of two rows at least, its integers in 64 bits.

    Polars divides a single row, and chunks of a single row each, by a number; a longer column it multiplies by the
    number's inverse, which gives other bits. Integers of fewer bits would wrap around.
    """
    table = table.select(columns).combine_chunks() if columns else pa.table({"": pa.nulls(table.num_rows)})
    if table.num_rows == 1:
        table = pa.concat_tables([table, table]).combine_chunks()
    frame = pl.DataFrame(pl.from_arrow(table))
    return frame.with_columns((cs.integer() - cs.by_dtype(pl.UInt64)).cast(pl.Int64))


def _no_new_decimals(frame: pl.DataFrame) -> pl.Expr:
    """1.0 is a decimal in SQL: where no input is one, a decimal result is float64."""
    if any(kind.is_decimal() for kind in frame.dtypes):
        return cs.by_name([])
    return cs.decimal().cast(pl.Float64)


def predicate(table: pa.Table, sql: str, who: str) -> pa.Array:
    """A bool per row; a null predicate is false."""
    column = compute(table, {"__where": sql}, who).column(0)
    if not pa.types.is_boolean(column.type):
        raise SchemaError(f"{who}: where={sql!r} gives {column.type}, a predicate must give true or false")
    return column.combine_chunks().fill_null(False)


def _widened(node: Any) -> Any:
    """The same expression; what `_COUNTS` names, in 64 bits."""
    if isinstance(node, list):
        return [_widened(child) for child in node]
    if not isinstance(node, dict):
        return node
    wide = {name: _widened(child) for name, child in node.items()}
    return {"Cast": {**_WIDENED["Cast"], "expr": wide}} if _counts(node.get("Function")) else wide


def _counts(call: Any) -> bool:
    """Whether it is a call of a function that `_COUNTS` names; one with options is the key of these."""
    match call:
        case {"function": {"TemporalExpr": name} | {"StringExpr": name} | {"ListExpr": name} | {"Bitwise": name}}:
            return any(map(_COUNTS.fullmatch, [name] if isinstance(name, str) else name))
    return False


def _node_names(node: Any) -> Iterator[str]:
    """The names of nodes and functions; not those of columns, nor literals."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for child in node:
            yield from _node_names(child)
    elif isinstance(node, dict):
        for name, child in node.items():
            yield name
            if name not in ("Column", "Literal", "dtype", "Alias", "StringExpr", "TemporalExpr"):
                yield from _node_names(child)
            elif name == "Alias":
                yield from _node_names(child[0])


def _first_mention(name: str, sql: str) -> int:
    found = re.search(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", sql)
    return found.start() if found else len(sql)
