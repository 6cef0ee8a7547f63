"""Reading files: the columns asked, pruned by statistics that never cost a row."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_log import PLAIN, add, entry, metadata
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from mlray.errors import MlrayError, SchemaError
from mlray.offline import delta, scan

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", tz="UTC")


def table_of(path: Path | str) -> delta.Table:
    """The newest version."""
    return delta.table_at(str(path), "events")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_columns_come_as_asked_and_files_in_the_order_given(scheme: str, tmp_path: Path) -> None:
    for i in range(3):
        write_deltalake(f"{scheme}{tmp_path}", pa.table({"a": [i, i], "b": ["x", "y"], "c": [1.0, 2.0]}), mode="append")
    table = table_of(f"{scheme}{tmp_path}")
    found = [scan.read(files, table.schema, ["c", "a"], "events") for files in (table.files, table.files[::-1])]
    assert found[0].column_names == ["c", "a"]
    assert found[1].column("a").to_pylist() == found[0].column("a").to_pylist()[::-1]
    assert scan.read((), table.schema, ["a"], "events").schema == pa.schema({"a": pa.int64()})


def test_a_column_that_the_table_lacks_has_a_suggestion(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({"amount": [1]}))
    table = table_of(tmp_path)
    with pytest.raises(SchemaError, match=r"view v: column 'amuont' is not in the table.*did you mean 'amount'"):
        scan.read(table.files, table.schema, ["amuont"], "view v")


def test_columns_have_the_types_of_the_table(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({"a": [1, 2], "s": ["x", "y"]}))
    table = table_of(tmp_path)
    found = scan.read(table.files, table.schema, ["a", "s"], "t")
    assert found.schema == pa.schema({"a": pa.int64(), "s": pa.string()})


VALUES: list[tuple[str, Any]] = [
    ("long", st.integers(-(2**63), 2**63 - 1)),
    ("integer", st.integers(-3, 3)),
    ("double", st.floats(allow_nan=True, allow_infinity=True)),
    ("float", st.floats(width=32, allow_nan=True)),
    ("string", st.text(st.characters(exclude_categories=["Cs"]), max_size=3)),
    ("string", st.builds(str.__mul__, st.sampled_from(["x", "\U0010ffff", "\ud7ff", "é"]), st.integers(30, 70))),
    ("boolean", st.booleans()),
    ("date", st.dates()),
    ("timestamp", st.datetimes(timezones=st.just(UTC))),
    ("timestamp", st.integers(-5_000, 5_000).map(lambda us: EPOCH + timedelta(microseconds=us))),
    ("decimal(12,2)", st.decimals(-(10**9), 10**9, places=2)),
    ("decimal(38,2)", st.decimals(-(10**35), 10**35, places=2)),
    ("binary", st.binary(max_size=3)),
]
ARROW = {"long": pa.int64(), "integer": pa.int32(), "double": pa.float64(), "float": pa.float32(), "date": pa.date32(),
         "string": pa.string(), "boolean": pa.bool_(), "timestamp": UTC_US, "decimal(12,2)": pa.decimal128(12, 2),
         "decimal(38,2)": pa.decimal128(38, 2), "binary": pa.binary()}


def wanted(value: Any, low: Any, high: Any) -> bool:
    """Whether a row is one that a reader who asked for [low, high] may not lose."""
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def asked(value: Any) -> Any:
    """A value in the words of `scan`: times are microseconds."""
    return (value - EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


@pytest.mark.parametrize("by", [(), ("p",)])
@pytest.mark.parametrize(("kind", "values"), VALUES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_pruning_never_loses_a_row(
    kind: str, values: Any, by: tuple[str, ...], data: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table")
    cells = data.draw(st.lists(st.one_of(st.none(), values), min_size=1, max_size=12))
    low, high = (data.draw(st.one_of(st.none(), st.sampled_from(cells), values)) for _ in range(2))
    rows = pa.table({"v": pa.array(cells, ARROW[kind]), "p": [i % 3 for i in range(len(cells))]})
    for start in range(0, len(cells), 4):
        write_deltalake(str(path), rows.slice(start, 4), mode="append", partition_by=list(by) or None)
    cells = rows.column("v").to_pylist()
    table = table_of(path)
    files = scan.pruned(table.files, "v", asked(low), asked(high))
    found = scan.read(files, table.schema, ["v"], "t", within=("v", asked(low), asked(high))).column("v").to_pylist()
    kept = [repr(v) for v in found if wanted(v, low, high)]
    assert sorted(kept) == sorted(repr(v) for v in cells if wanted(v, low, high))


def test_files_outside_the_range_are_left_out(tmp_path: Path) -> None:
    #  file      f0        f1        f2
    #  hours   [0, 1]    [2, 3]    [4, 5]       asked: [3h, 4h]
    hour = 3_600_000_000
    for i in range(3):
        at = pa.array([2 * i * hour, (2 * i + 1) * hour]).cast(UTC_US)
        write_deltalake(str(tmp_path), pa.table({"at": at, "i": [i, i]}), mode="append")
    table = table_of(tmp_path)

    def left(low: int | None, high: int | None) -> list[int]:
        files = scan.pruned(table.files, "at", low, high)
        return sorted(set(scan.read(files, table.schema, ["i"], "t").column("i").to_pylist()))

    assert left(3 * hour, 4 * hour) == [1, 2]
    assert left(None, 3 * hour) == [0, 1]
    assert left(5 * hour + 1_001, None) == []
    assert left(None, None) == [0, 1, 2]


def test_a_time_cut_to_milliseconds_in_the_log_is_not_lost(tmp_path: Path) -> None:
    at = pa.array([1_999, -1_999]).cast(UTC_US)
    for i in range(2):
        write_deltalake(str(tmp_path), pa.table({"at": at.slice(i, 1)}), mode="append")
    table = table_of(tmp_path)
    assert len(scan.pruned(table.files, "at", 1_999, None)) == 1
    assert len(scan.pruned(table.files, "at", None, -1_999)) == 1


def test_a_decimal_rounded_in_the_log_is_not_lost(tmp_path: Path) -> None:
    value = Decimal("1234567890123456.78")  # noted as 1234567890123456.8
    write_deltalake(str(tmp_path), pa.table({"v": pa.array([value], pa.decimal128(18, 2))}))
    assert len(scan.pruned(table_of(tmp_path).files, "v", value, value)) == 1


def stats(**more: Any) -> str:
    """Statistics as a writer notes them."""
    return json.dumps({"numRecords": 1, **more})


@pytest.mark.parametrize(("kind", "noted", "low", "high", "stays"), [
    ("string", {"minValues": {"v": "a" * 32}, "maxValues": {"v": "x" * 32}}, "x" * 32 + "a", None, True),
    ("string", {"minValues": {"v": "a"}, "maxValues": {"v": "x"}}, "xa", None, False),
    ("double", {"minValues": {"v": "NaN"}, "maxValues": {"v": "NaN"}}, 1.0, 2.0, True),
    ("double", {"minValues": {"v": 0}, "maxValues": {"v": 0.5}}, 1.0, 2.0, False),
    ("long", {"minValues": {"v": 3}}, None, 2, False),
    ("long", {"minValues": {"v": 3}}, 9, None, True),
    ("long", {"maxValues": {"v": 3}, "minValues": {"w": 1}}, 9, None, False),
    ("long", {}, 9, None, True),
    ("decimal(38,2)", {"minValues": {"v": 1e30}, "maxValues": {"v": 1e30}}, Decimal(1), Decimal(2), True),
    ("timestamp", {"minValues": {"v": "2026-01-01T01:00:00.000+01:00"}}, None, 1_767_225_599_999_999, True),
    ("timestamp", {"minValues": {"v": "2026-01-01T01:00:00.000+01:00"}}, None, 1_767_225_500_000_000, False),
    ("date", {"maxValues": {"v": "2026-01-01"}}, date(2026, 1, 2), None, False),
])
def test_statistics_are_believed_as_far_as_they_reach(
    kind: str, noted: dict[str, Any], low: Any, high: Any, stays: bool, tmp_path: Path
) -> None:
    file = add(tmp_path, "f.parquet", pa.table({"w": [1]}), stats=stats(**noted))
    entry(tmp_path, 0, PLAIN, metadata({"v": kind, "w": "long"}), file)
    assert bool(scan.pruned(table_of(tmp_path).files, "v", low, high)) is stays


def test_columns_beyond_those_with_statistics_prune_nothing(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({f"c{i}": [i] for i in range(40)}))
    table = table_of(tmp_path)
    assert scan.pruned(table.files, "c3", 4, None) == ()
    assert scan.pruned(table.files, "c39", 40, None) == table.files


def test_partition_values_prune_exactly(tmp_path: Path) -> None:
    rows = pa.table({"day": [date(2026, 1, d) for d in (1, 2, 3)] + [None], "n": range(4)})
    write_deltalake(str(tmp_path), rows, partition_by=["day"])
    table = table_of(tmp_path)
    found = scan.pruned(table.files, "day", date(2026, 1, 2), None)
    assert sorted(scan.read(found, table.schema, ["n"], "t").column("n").to_pylist()) == [1, 2]
    assert scan.read(table.files, table.schema, ["n"], "t", ("day", date(2026, 1, 3), None)).to_pylist() == [{"n": 2}]


def test_dates_are_asked_for_by_instants_too(tmp_path: Path) -> None:
    #  files   2nd      3rd       asked: [2nd 12:00, 3rd 00:00] in microseconds
    day = 86_400_000_000
    for d in (2, 3):
        write_deltalake(str(tmp_path), pa.table({"day": [date(1970, 1, d)], "p": [date(1970, 1, d)]}), mode="append",
                        partition_by=["p"])
    table = table_of(tmp_path)
    for column in ("day", "p"):
        assert len(scan.pruned(table.files, column, day + day // 2, 2 * day)) == 1
        asked_by_group = scan.read(table.files, table.schema, ["day"], "t", within=(column, day + day // 2, None))
        assert asked_by_group.column("day").to_pylist() == [date(1970, 1, 3)]


GROUPED: list[tuple[pa.DataType, list[Any], Any, Any]] = [
    (pa.int64(), list(range(8)), 2, 3),
    (pa.string(), [f"{i}é" for i in range(8)], "2é", "3é"),
    (pa.timestamp("ns"), list(range(0, 8_000, 1_000)), 2, 3),
    (pa.timestamp("ms", tz="UTC"), list(range(8)), 2_000, 3_000),
    (UTC_US, list(range(8)), 2, 3),
    (pa.date32(), list(range(8)), date(1970, 1, 3), date(1970, 1, 4)),
    (pa.decimal128(20, 2), [Decimal(i) for i in range(8)], Decimal(2), Decimal(3)),
    (pa.float64(), [float(i) for i in range(8)], 2.0, 3.0),
]


@pytest.mark.parametrize(("kind", "cells", "low", "high"), GROUPED)
@pytest.mark.parametrize("options", [{}, {"store_decimal_as_integer": True}, {"store_schema": False}])
def test_row_groups_outside_the_range_are_skipped_and_others_come_whole(
    kind: pa.DataType, cells: list[Any], low: Any, high: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    rows = pa.table({"v": pa.array(cells, kind), "i": range(8)})
    pq.write_table(rows, tmp_path / "f.parquet", row_group_size=2, **options)
    file = delta.File(str(tmp_path / "f.parquet"), 8, 0)
    for path in (file.path, f"file://{file.path}"):
        found = scan.read([delta.File(path, 8, 0)], rows.schema, ["i"], "t", within=("v", low, high))
        assert found.column("i").to_pylist() == [2, 3]
    assert scan.read([file], rows.schema, ["i"], "t", within=("v", None, low)).num_rows == 4


def test_row_groups_stay_where_nothing_is_known_of_them(tmp_path: Path) -> None:
    rows = pa.table({"v": range(8), "text": [str(i) for i in range(8)], "nan": [np.nan, *range(7)]})
    pq.write_table(rows, tmp_path / "f.parquet", row_group_size=2, write_statistics=["text", "nan"])
    file = delta.File(str(tmp_path / "f.parquet"), 8, 0)

    def count(*within: Any) -> int:
        return scan.read([file], rows.schema, ["v"], "t", within=within).num_rows

    assert (count("v", 100, None), count("nowhere", 1, 2), count("text", 1, 2)) == (8, 8, 8)
    assert count("nan", 100.0, None) == 0
    assert count("nan", 0.0, 0.0) == 2


def test_an_unreadable_file_is_named_with_who_asked(tmp_path: Path) -> None:
    for scheme in ("", "file://"):
        file = delta.File(f"{scheme}{tmp_path}/none.parquet", 1, 1)
        with pytest.raises(MlrayError, match=rf"view v: the file {scheme}{tmp_path}/none\.parquet .*not there"):
            scan.read([file], pa.schema({"a": pa.int64()}), ["a"], "view v")
