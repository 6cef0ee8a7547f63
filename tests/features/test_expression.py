"""Row-level SQL: one row in, one value out, the same at any time and in any company."""

import pytest

import mlray as ml
from mlray.features.expression import mentioned, parsed


@pytest.mark.parametrize("sql", [
    "SUM(a)", "COUNT(*)", "MEDIAN(a)", "QUANTILE_CONT(a, 0.5)", "QUANTILE_DISC(a, 0.5)", "COVAR(a, b)", "CORR(a, b)",
    "a - LAG(a) OVER (ORDER BY b)", "ROW_NUMBER() OVER (ORDER BY a)", "MAX(a) OVER (PARTITION BY b)", "FIRST(a)",
    "a > (SELECT 1)", "UNNEST(a)", "COLUMNS('.*')",
])
def test_sql_over_several_rows_is_refused(sql: str) -> None:
    with pytest.raises(ml.MlrayError, match="spending"):
        parsed(sql, "spending")


@pytest.mark.parametrize("sql", ["NOW()", "CURRENT_DATE", "current_timestamp", "RANDOM()", "a > now()"])
def test_sql_whose_value_changes_is_refused(sql: str) -> None:
    with pytest.raises(ml.MlrayError, match="spending"):
        parsed(sql, "spending")


@pytest.mark.parametrize("sql", ["", "a +", "a, b", "SELECT a FROM t", "NO_SUCH(a)", "greatest()", "a; b"])
def test_sql_that_does_not_parse_is_refused(sql: str) -> None:
    with pytest.raises(ml.MlrayError, match="spending"):
        parsed(sql, "spending")


@pytest.mark.parametrize("sql", ["s = 'now'", "s = 'sum(a) over ()'", "today > 1", '"random" + 1', "a IN (1, 2)", "1"])
def test_sql_that_only_looks_suspicious_is_accepted(sql: str) -> None:
    assert parsed(sql, "spending") is not None


def test_columns_are_named_by_first_mention() -> None:
    assert mentioned("b > 1 OR ab = 2 AND b < a", "spending") == ["b", "ab", "a"]


def test_a_time_read_from_text_names_its_format_or_would_depend_on_the_first_row() -> None:
    with pytest.raises(ml.MlrayError, match=r"guesses the format.*DATE\(text, '%Y-%m-%d'\)"):
        parsed("DATE(bought_on)", "source s: select 'day'")
    assert mentioned("DATE(bought_on, '%Y-%m-%d')", "source s: select 'day'") == ["bought_on"]
