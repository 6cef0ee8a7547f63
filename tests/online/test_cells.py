"""The cell of a key with one event: it can be read as it lies, unless its event never counts."""

from typing import Any

import pyarrow as pa
import pytest

import mlray as ml
from mlray.features.rows import events
from mlray.features.types import INSTANT
from mlray.online.cells import base_cells, batch_cells, chunks, shape_of
from mlray.online.codec import IN_ORDER
from mlray.online.store import Cell

NOON = 1_773_057_600_000_000


def flags(where: str | None, **columns: list[Any]) -> dict[int, int]:
    """Per number of rows of a key the flags of its cell."""
    source = ml.DeltaSource("s", path="s", timestamp="at", sequence="n", where=where)
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=["x"])
    count = len(columns["k"])
    rows = pa.table({"at": pa.array([NOON] * count, INSTANT), "x": [0.5] * count, **columns})
    found = events(view, rows)
    shape = shape_of(view, found.schema)
    headers = [shape.batch.header(cell.value) for cell in batch_cells(shape, found, 1)]
    return {header.rows: header.flags for header in headers}


def test_one_event_is_in_order_as_two_are() -> None:
    assert flags(None, k=[1, 2, 2], n=[1, 1, 2]) == {1: IN_ORDER, 2: IN_ORDER}


@pytest.mark.parametrize("kept", [True, False])
def test_one_that_the_sources_condition_leaves_out_is_not_read_as_it_lies(kept: bool) -> None:
    assert flags("ok", k=[1], n=[1], ok=[kept]) == {1: IN_ORDER if kept else 0}


def test_bases_come_in_the_order_of_their_keys() -> None:
    source = ml.DeltaSource("s", path="s", timestamp="at")
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=["x"])
    rows = pa.table({"k": list("cadbca"), "at": pa.array(range(6), INSTANT), "x": range(6)})
    found = list(base_cells(shape_of(view, events(view, rows).schema), events(view, rows), 0, 9, 0))
    assert [(cell.key[-1:], held) for cell, held in found] == [(b"a", 2), (b"b", 1), (b"c", 2), (b"d", 1)]
    shape = shape_of(view, events(view, rows).schema)
    assert [shape.base.plain(cell.value)[1][-1] for cell, _ in found] == [[1, 5], [3], [0, 4], [2]]


@pytest.mark.parametrize(("count", "size", "parts"), [
    (0, 0, []), (5_000, 10, [4096, 904]), (5, 10 << 20, [2, 2, 1]), (4096, 0, [4096]),
])  # fmt: skip
def test_what_is_scanned_comes_in_parts_of_bounded_number_and_size(count: int, size: int, parts: list[int]) -> None:
    value = bytes(size)
    cells = [Cell(b"%d" % i, b"", 1, value) for i in range(count)]
    found = list(chunks(iter(cells)))
    assert ([*map(len, found)], [cell for some in found for cell in some]) == (parts, cells)
