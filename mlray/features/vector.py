"""From the answers of views to one feature vector per row: renamed, joined with request fields, on-demand computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import SchemaError, TransformationFailed
from mlray.features.on_demand import AT, OnDemand
from mlray.features.service import FeatureService, Item, item_names
from mlray.features.source import REQUEST_TYPES, RequestFields, RequestSource
from mlray.features.types import INSTANT
from mlray.features.view import BoundView

_ARROW = {
    "float64": pa.float64(),
    "int64": pa.int64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": INSTANT,
    "date": pa.date32(),
}

Answers = Mapping[BoundView, pa.Table]
Columns = Mapping[str, pa.ChunkedArray]


def vector_schema(service: FeatureService, views: Mapping[str, pa.Schema]) -> pa.Schema:
    """Names and types of the service's features, given those of each view by name."""
    types: dict[str, pa.DataType] = {name: _ARROW[REQUEST_TYPES[kind]] for name, kind in service.request.items()}
    for read in service.reads:
        types |= {here: views[read.view.name].field(name).type for name, here in read.renamed.items()}
    types |= {function.name: _ARROW[function.returns] for function in service.on_demand}
    return pa.schema([(name, types[name]) for name in service.names])


def request_fields(service: FeatureService, rows: pa.Table) -> pa.Table:
    """The request fields that the service needs, cast to their declared types; SchemaError where one is missing
    or unfit.
    """
    columns = {}
    for name, kind in service.request.items():
        if name not in rows.column_names:
            raise SchemaError.missing_column(f"feature service {service.name}", name, "the rows", rows.column_names)
        columns[name] = _cast(rows.column(name), _ARROW[REQUEST_TYPES[kind]], f"request field '{name}'")
    return pa.table(columns) if columns else _rows(rows.num_rows)


def assemble(service: FeatureService, answers: Answers, request: pa.Table, at: Instants) -> pa.Table:
    """The feature vectors: one row per query, the service's features in its order.

    answers: per reading of a view its features under the view's names; request: see `request_fields`; at: q.
    """
    assembly = Assembly(service)
    return assembly.vectors([answers[read] for read in assembly.reads], request, at)


class Assembly:
    """A service's vectors, made ready to be put together often. reads: each reading of a view, once."""

    def __init__(self, service: FeatureService) -> None:
        self.reads = service.reads
        self._renamed = [list(read.renamed.items()) for read in self.reads]
        place = {read: i for i, read in enumerate(self.reads)}
        parts: list[tuple[Item, Sequence[int | RequestSource]]] = []
        for item in service.items:
            sources = item.inputs if isinstance(item, OnDemand) else (item,)
            parts.append((item, [place[s.whole] if isinstance(s, BoundView) else _source(s) for s in sources]))
        self._parts = [(item, item_names(item), sources) for item, sources in parts]

    def vectors(self, answers: Sequence[pa.Table], request: pa.Table, at: Instants) -> pa.Table:
        """As `assemble`; answers: in the order of `reads`."""
        known = {name: request.column(name) for name in request.column_names}
        views = [
            {here: answer.column(name) for name, here in renamed}
            for answer, renamed in zip(answers, self._renamed, strict=True)
        ]
        out: dict[str, pa.ChunkedArray] = {}
        for item, names, sources in self._parts:
            columns: dict[str, pa.ChunkedArray] = {}
            for source in sources:
                columns |= views[source] if isinstance(source, int) else _fields(source, known)
            if isinstance(item, OnDemand):
                out[item.name] = _computed(item, columns, at)
            else:
                out |= {name: columns[name] for name in names}
        return pa.table(out)


def _source(part: RequestFields | RequestSource) -> RequestSource:
    return part.source if isinstance(part, RequestFields) else part


def _fields(source: RequestSource, request: Columns) -> Columns:
    return {name: request[name] for name in source.schema if name in request}


def _computed(function: OnDemand, inputs: Columns, at: Instants) -> pa.Array:
    arguments = [_instants(at) if p == AT else to_numpy(inputs[p]) for p in function.parameters]
    who = f"on-demand feature {function.name}"
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(function.compiled()(*arguments))
    except Exception as error:
        raise TransformationFailed(f"{who} failed over {len(at)} rows: {type(error).__name__}: {error}") from error
    if result.shape != (len(at),):
        raise TransformationFailed(
            f"{who} gave shape {result.shape} for {len(at)} rows; it must give one value per row"
        )
    return _to_arrow(result, _ARROW[function.returns], who)


def to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers and bool as float64 with NaN for null, times as datetime64[us], all else as objects with None for
    null.
    """
    kind = column.type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        numbers: NDArray[Any] = column.cast(pa.float64(), safe=False).to_numpy()
        return numbers.copy()
    if pa.types.is_timestamp(kind):
        times: NDArray[Any] = column.cast(pa.timestamp("us")).to_numpy()
        return times.copy()
    return np.array([*column.to_pylist(), None], dtype=object)[:-1]


def _to_arrow(result: NDArray[Any], kind: pa.DataType, who: str) -> pa.Array:
    """NaN, NaT and None become null."""
    try:
        array = pa.array(result, from_pandas=True)
        return array.cast(pa.timestamp("us")).cast(kind) if pa.types.is_timestamp(kind) else array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise TransformationFailed(
            f"{who} gave {result.dtype}, which is not {kind}: {error}; annotate what it returns, such as -> str"
        ) from error


def _instants(at: Instants) -> NDArray[np.datetime64]:
    times = at.floor.view("datetime64[us]").copy()
    times[~at.valid] = np.datetime64("NaT")
    return times


def _cast(column: pa.ChunkedArray, kind: pa.DataType, who: str) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_string(column.type) != pa.types.is_string(kind) and not pa.types.is_null(column.type):
        plain = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
        if not (plain and pa.types.is_string(kind)) and not pa.types.is_dictionary(column.type):
            raise SchemaError(f"{who} is {column.type}, but {kind} is declared")
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{who} is {column.type} and cannot become {kind}: {error}") from error


def _rows(length: int) -> pa.Table:
    """A table without columns that remembers how many rows it stands for."""
    return pa.table({"__row": pc.fill_null(pa.nulls(length, pa.int8()), 0)})
