"""The gate `data_validation`: a schema beside the features, and what only all rows together can tell."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pytest
import ray

from mlray.gates.data_validation import judged, merged, observe, validate
from mlray.gates.result import Result
from mlray.gates.settings import DataValidation

SCHEMA = pandera.DataFrameSchema(
    {
        "id": pandera.Column(pl.Int64, unique=True),
        "amount": pandera.Column(
            pl.Float64, pandera.Check.in_range(0, 100), nullable=True, metadata={"max_null_share": 0.5}
        ),
        "country": pandera.Column(pl.String, pandera.Check.isin(["DE", "FR"])),
        "price": pandera.Column(pl.Decimal(10, 2), pandera.Check.ge(0), nullable=True),
        "at": pandera.Column(pl.Datetime("us", "UTC")),
    },
    metadata={"min_rows": 2},
)


def table(rows: int = 4, **columns: Any) -> pa.Table:
    given = {
        "id": list(range(rows)),
        "amount": [1.0] * rows,
        "country": ["DE"] * rows,
        "price": pa.array([Decimal("1.50")] * rows, pa.decimal128(10, 2)),
        "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * rows, pa.timestamp("us", "UTC")),
    }
    return pa.table(given | columns)


def found(*blocks: pa.Table, **settings: Any) -> Result:
    """Of blocks that are looked at one by one, without what needs a cluster: uniqueness."""
    return judged(merged(observe(block, SCHEMA) for block in blocks), {}, SCHEMA, DataValidation(**settings), None)


def test_what_the_schema_says_passes_decimals_and_instants_with_a_zone_too() -> None:
    assert found(table(), table(2)).passed


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"amount": [1.0, -3.0, 200.0, 4.0]}, "amount: in_range(0, 100) fails in 2 rows, such as -3.0, 200.0"),
        ({"country": ["DE", "XX", "DE", "FR"]}, "country: isin(['DE', 'FR']) fails in 1 rows, such as XX"),
        ({"country": ["DE", None, "DE", "FR"]}, "country: not_nullable fails in 1 rows, such as None"),
        ({"amount": [1, 2, 3, 4]}, "amount: dtype('Float64') fails in 4 rows, such as Int64"),
    ],
)
def test_a_row_that_is_not_as_declared_is_counted_and_shown(columns: dict[str, Any], problem: str) -> None:
    result = found(table(**columns))
    assert (result.passed, result.problems, result.value, result.threshold) == (False, (problem,), 1.0, 0.0)


def test_the_counts_of_all_blocks_are_added_up() -> None:
    bad = table(country=["XX", "XX", "DE", "DE"])
    assert found(bad, bad).problems == ("country: isin(['DE', 'FR']) fails in 4 rows, such as XX",)


def test_a_column_that_is_not_there_is_a_problem() -> None:
    assert found(table().drop_columns(["amount"])).problems == (
        "amount: column_in_dataframe fails in 4 rows, such as amount",
    )


def test_a_share_of_missing_values_is_one_of_all_rows_and_not_of_a_block() -> None:
    empty, full = table(amount=pa.array([None] * 4, pa.float64())), table()
    assert found(empty, full).passed
    assert found(empty, empty, full).problems == ("amount: 66.67% of its values are missing, allowed are 50.00%",)


def test_a_column_without_a_value_is_told_and_no_rows_at_all_are_a_problem() -> None:
    assert "price is missing in every row" in found(table(price=pa.array([None] * 4, pa.decimal128(10, 2)))).notes
    none = found(table().slice(0, 0))
    assert none.problems == ("the training set has no row", "the training set has 0 rows, needed are 2")


@pytest.mark.parametrize(("before", "change"), [(10, "-60%"), (3, "+33%")])
def test_far_fewer_or_more_rows_than_in_the_previous_training_set_are_a_problem(before: int, change: str) -> None:
    seen = merged([observe(table(), SCHEMA)])
    previous = judged(seen, {}, SCHEMA, DataValidation(max_row_change=0.2), ("shop-1", before))
    assert previous.problems == (
        f"the training set has 4 rows, {change} beside the {before} of run shop-1; allowed is a change of 20%",
    )
    assert judged(seen, {}, SCHEMA, DataValidation(max_row_change=0.34), ("shop-1", 3)).passed
    assert judged(seen, {}, SCHEMA, DataValidation(max_row_change=None), ("shop-1", 10)).passed


@pytest.mark.usefixtures("ray_cluster")
def test_a_key_that_comes_twice_is_found_across_blocks() -> None:
    blocks = [ray.put(table()), ray.put(table()), ray.put(table(id=[10, 11, 12, 13]))]
    result = validate(blocks, SCHEMA, DataValidation(), None)
    assert result.problems == ("id: 4 rows repeat a key",)
    assert result.details["rows"] == 12


def test_a_schema_with_a_unique_key_keeps_all_else_that_it_asks_for() -> None:
    columns = {"a": pandera.Column(pl.Int64), "b": pandera.Column(pl.Int64)}
    schema = pandera.DataFrameSchema(columns, unique=["a", "b"], ordered=True)
    assert observe(pa.table({"b": [1, 1], "a": [2, 2]}), schema).failures == {("b", "column_ordered"): 2}
    assert schema.unique == ["a", "b"]


def test_without_a_schema_only_rows_are_counted() -> None:
    seen = merged([observe(table(country=["XX"] * 4), None)])
    assert judged(seen, {}, None, DataValidation(), None).passed
