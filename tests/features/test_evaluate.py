"""The one evaluation of views equals the naive oracle, to the bit, over generated worlds; no Ray."""

from typing import Any

import declared
import numpy as np
import pyarrow as pa
import pytest
from generated import KINDS, World, differences, expected, plain, world
from hypothesis import given, settings
from hypothesis import strategies as st

from mlray.aggregation.timeline import NOWHERE, Axis, Timeline
from mlray.features.evaluate import COPIES, Queries, evaluate, view_schema
from mlray.features.order import prepare
from mlray.features.rows import events
from mlray.features.types import instants


def engine(world: World, table: pa.Table | None = None, copies: int = COPIES) -> pa.Table:
    """What the engine answers to the world's queries from `table`, or from its own rows."""
    view = declared.view(world)
    rows = events(view, world.table if table is None else table)
    named = list(zip(*(plain(rows[key]) for key in world.view.keys), strict=True))
    codes: dict[Any, int] = {key: code for code, key in enumerate(dict.fromkeys(named))}
    queries = Queries(
        codes=np.array([codes.get(key, NOWHERE) for key, _ in world.queries], dtype=np.int64),
        instants=instants(world.spine["timestamp"], "spine"),
        answerable=np.array([None not in key for key, _ in world.queries], dtype=np.bool_),
    )
    coded = np.array([codes[key] for key in named], dtype=np.int64)
    return evaluate(view, prepare(view, rows, coded), queries, copies)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 40))
def test_a_world_is_answered_as_the_oracle_does(seed: int, size: int) -> None:
    asked = world(seed, size)
    assert differences(asked, engine(asked), expected(asked)) == []


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), copies=st.integers(0, 20))
def test_few_copies_of_hidden_rows_at_a_time_change_no_bit(seed: int, copies: int) -> None:
    asked = world(seed, 30)
    assert differences(asked, engine(asked, copies=copies), expected(asked)) == []


@settings(max_examples=200, deadline=None)
@given(known=st.lists(st.integers(0, 9), min_size=1, max_size=40), q=st.integers(0, 9), data=st.data())
def test_the_newest_row_is_the_last_one_known(known: list[int], q: int, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, len(known)))
    hi = data.draw(st.integers(lo, len(known)))
    codes, times = np.zeros(len(known), dtype=np.int64), np.arange(len(known))
    axis = Axis.of(codes, times)
    timeline = Timeline(axis, axis.marks(codes, times), known=np.array(known))
    found = timeline.newest(np.array([lo]), np.array([hi]), np.array([q]))
    assert found.tolist() == [max((i for i in range(lo, hi) if known[i] <= q), default=NOWHERE)]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_source_without_time_is_answered_as_the_oracle_does(seed: int) -> None:
    asked = world(seed, 30, timeless=True)
    assert differences(asked, engine(asked), expected(asked)) == []


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(seed: int, order: Any) -> None:
    asked = world(seed, 30)
    shuffled = list(range(asked.table.num_rows))
    order.shuffle(shuffled)
    assert differences(asked, engine(asked, asked.table.take(shuffled)), expected(asked)) == []


@pytest.mark.parametrize("seed", range(20))
def test_types_are_those_that_the_schema_promises(seed: int) -> None:
    asked = world(seed)
    promised = view_schema(declared.view(asked), asked.table.schema)
    assert engine(asked).schema == promised
    assert promised.names == list(asked.view.features)


def test_every_registered_aggregate_is_generated() -> None:
    """A new kind is added to the kinds of tests/generated.py, its parameters beside them, and to tests/oracle.py."""
    assert set(KINDS) == set(declared.KINDS)
