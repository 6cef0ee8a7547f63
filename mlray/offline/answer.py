"""What a view answers for a block of spine rows, and finished rows of the training set; pure functions on Arrow."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mlray.aggregation.aggregate import Ranges
from mlray.features import keys as typed_keys
from mlray.features.evaluate import Queries, evaluate
from mlray.features.order import Events, prepare
from mlray.features.service import FeatureService
from mlray.features.types import canonical_type, instants
from mlray.features.vector import Answers, assemble, request_fields
from mlray.features.view import BoundView, FeatureView
from mlray.offline.cutting import wide
from mlray.offline.spine import ROW


@dataclass(frozen=True)
class Held:
    """A view's events in order, and the key of each code."""

    events: Events
    dictionary: pa.Table


def held(view: FeatureView, rows: pa.Table) -> Held:
    """The events `rows` (see `features.rows`), ordered."""
    rows = wide(rows)
    dictionary, codes = coded_keys(view, rows)
    return Held(prepare(view, rows, codes), dictionary)


def coded_keys(view: FeatureView, rows: pa.Table) -> tuple[pa.Table, Ranges]:
    """The distinct keys of the events, and the code of every row."""
    dictionary, codes = typed_keys.distinct(rows.select(list(view.keys)) if view.keys else keyless(rows.num_rows))
    types = [field.with_type(canonical_type(field.type)) for field in dictionary.schema]  # there was room for long text
    return dictionary.cast(pa.schema(types)), codes


def answer(bound: BoundView, known: Held, block: pa.Table, timestamp: str) -> pa.Table:
    """The view's features for a block of spine rows: one row per row, under the view's own names."""
    return evaluate(bound.view, known.events, queries(bound, known.dictionary, block, timestamp))


def queries(bound: BoundView, dictionary: pa.Table, block: pa.Table, timestamp: str) -> Queries:
    """The block's rows as questions to a view whose keys are `dictionary`."""
    columns = spine_keys(bound, block, dictionary.schema)
    names = [str(i) for i in range(len(columns))]
    found = pa.table(columns, names=names) if columns else keyless(block.num_rows)
    codes = typed_keys.codes(found, dictionary)
    at = instants(block.column(timestamp), f"spine column '{timestamp}'")
    return Queries(codes, at, typed_keys.complete(columns, block.num_rows))


def finished(service: FeatureService, spine: pa.Table, answers: Answers, timestamp: str) -> pa.Table:
    """Spine rows and the answers of every reading as rows of the training set, with `__row`."""
    at = instants(spine.column(timestamp), f"spine column '{timestamp}'")
    request = request_fields(service, spine)
    vectors = assemble(service, answers, request, at)
    own = [n for n in spine.column_names if not n.startswith("__") or n == ROW]
    columns = {n: request.column(n) if n in service.request else spine.column(n) for n in own}
    return pa.table(columns | {n: vectors.column(n) for n in service.names})


def spine_keys(bound: BoundView, block: pa.Table, keys: pa.Schema) -> list[pa.ChunkedArray]:
    """The block's columns that stand for the view's keys, in the types of the events' keys."""
    who = f"feature view {bound.view.name}"
    return [
        typed_keys.spine_key(block.column(name), name, field.type, who)
        for name, field in zip(bound.spine_keys, keys, strict=False)
    ]


def keyless(length: int) -> pa.Table:
    """A table without columns loses its length; this one keeps it and still has no key column."""
    return pa.table({"": np.zeros(length, dtype=np.int8)}).select([])
