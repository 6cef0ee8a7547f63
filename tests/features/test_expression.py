"""Row-level SQL: one row in, one value out, the same at any time and in any company."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

import mlray as ml
from mlray.features.expression import compute, mentioned, parsed


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


ELEMENTWISE = (
    "x / 3", "x / 100", "n / 7", "n / 100", "f / 3", "(x + 1) / 7", "COALESCE(x, 1) / 3", "x * 1.1", "x - 0.1", "1 / x",
    "x % 0.3", "n % -7", "n // 7", "POW(ABS(x), 0.5)", "LOG(ABS(x), 3)", "ROUND(x / 3, 2)", "x / (1 + 2)",
    "CASE WHEN n > 0 THEN x ELSE 1 END / 3", "EXTRACT(epoch FROM at) / 3600", "x / 3 <= 0.5", "n * 1.0 / 60",
)  # fmt: skip
NUMBERS = pa.table({
    "x": [(i - 150) / 7 for i in range(300)],
    "n": range(-150, 150),
    "f": pa.array([i / 7 for i in range(300)], pa.float32()),
    "at": pa.array([i * 1_234_567_891 for i in range(300)]).cast(pa.timestamp("us", "UTC")),
})


@pytest.mark.parametrize("sql", ELEMENTWISE)
def test_a_row_has_the_same_value_to_the_bit_alone_and_in_any_company(sql: str) -> None:
    def values(rows: pa.Table) -> pa.Array:
        return compute(rows, {"value": sql}, "spending").column("value").combine_chunks()

    each = [NUMBERS.slice(i, 1) for i in range(len(NUMBERS))]
    together = values(NUMBERS)
    assert pa.concat_arrays([values(row) for row in each]).equals(together)
    assert values(pa.concat_tables(each)).equals(together)
    twice = [values(pa.concat_tables([row, row])) for row in each]
    assert pa.concat_arrays([both.slice(1) for both in twice]).equals(together)


@pytest.mark.parametrize(("kind", "a", "sql", "value"), [
    (pa.int32(), 2_000_000, "a * 3000", 6_000_000_000), (pa.int8(), 100, "a + a", 200), (pa.uint8(), 100, "1 - a", -99),
])
def test_columns_of_few_bits_do_not_wrap_around(kind: pa.DataType, a: int, sql: str, value: int) -> None:
    rows = pa.table({"a": pa.array([a], kind)})
    assert compute(rows, {"value": sql}, "spending").column("value").to_pylist() == [value]


LAST_SECOND = pa.table({"at": [datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC)], "word": ["ab"], "list": [[1, 2]]})


@pytest.mark.parametrize(("sql", "value"), [
    ("EXTRACT(hour FROM at) * 60 + EXTRACT(minute FROM at)", 1439), ("EXTRACT(day FROM at) * 24", 744),
    ("DATE_PART('hour', at) * 3600", 82_800), ("EXTRACT(doy FROM at) * 100", 36_600),
    ("EXTRACT(hour FROM at) * 10 > 200", True), ("LENGTH(word) - 5", -3), ("STRPOS(word, 'z') - 1", -1),
    ("ARRAY_LENGTH(list) - 3", -1), ("OCTET_LENGTH(word) - 3", -1), ("EXTRACT(year FROM at) - 2025", -1),
    ("CASE WHEN EXTRACT(month FROM at) IN (11, 12) THEN word ELSE 'x' END", "ab"),
])  # fmt: skip
def test_results_of_few_bits_do_not_wrap_around(sql: str, value: object) -> None:
    assert compute(LAST_SECOND, {"value": sql}, "spending").column("value").to_pylist() == [value]


def test_integers_beyond_64_bits_are_refused() -> None:
    rows = pa.table({"a": pa.array([1], pa.uint64()), "b": [1]})
    with pytest.raises(ml.MlrayError, match=r"spending: 'a \+ b'.*beyond 64 bits.*BIGINT"):
        compute(rows, {"value": "a + b"}, "spending")
