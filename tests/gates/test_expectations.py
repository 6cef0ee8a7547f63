"""A team's own suite of Great Expectations, run by Great Expectations."""

import json
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from mlray.errors import ConfigError
from mlray.gates.expectations import load_suite, run_suite

SUITE = {
    "name": "sales",
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "amount"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "price", "min_value": 0}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "country", "value_set": ["DE", "FR"]}},
        {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 2}},
    ],
}
ROWS = pa.table({
    "amount": [1.0, 2.0, 3.0],
    "price": pa.array([Decimal("1.50"), None, Decimal("3.00")], pa.decimal128(10, 2)),
    "country": ["DE", "FR", "DE"],
    "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC")),
})


def failed(tmp_path: Path, rows: pa.Table) -> list[str]:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(SUITE))
    return sorted(run_suite(load_suite(path), rows))


def test_a_suite_as_it_is_kept_passes_on_rows_that_are_as_expected_and_reports_nothing_home(tmp_path: Path) -> None:
    assert failed(tmp_path, ROWS) == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_each_failed_expectation_is_one_sentence_with_counts_and_examples(tmp_path: Path) -> None:
    country = pa.chunked_array([["DE", "XX", "YY"]])
    assert failed(tmp_path, ROWS.set_column(2, "country", country)) == [
        "country: expect_column_values_to_be_in_set(value_set=['DE', 'FR']) fails in 2 rows, such as XX, YY",
    ]
    assert failed(tmp_path, ROWS.slice(0, 1)) == [
        "the table: expect_table_row_count_to_be_between(min_value=2) found 1",
    ]


def test_an_expectation_that_cannot_be_computed_has_failed(tmp_path: Path) -> None:
    [told] = failed(tmp_path, ROWS.drop_columns(["amount"]))
    assert told.startswith("amount: expect_column_values_to_not_be_null() could not be computed: ")


def test_no_rows_and_a_column_without_a_value_are_judged_and_not_crashed_upon(tmp_path: Path) -> None:
    assert failed(tmp_path, ROWS.slice(0, 0)) == [
        "the table: expect_table_row_count_to_be_between(min_value=2) found 0",
    ]
    empty = ROWS.set_column(0, "amount", pa.chunked_array([pa.nulls(3, pa.float64())]))
    assert failed(tmp_path, empty)[0].startswith("amount: expect_column_values_to_not_be_null() fails in 3 rows")


def test_a_file_that_is_no_suite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no suite of Great Expectations"):
        load_suite(tmp_path / "suite.json")
