"""Files written for a Delta table: what the log says of them, and what readers of every kind get back."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Transaction

from mlray.errors import Conflict, MlrayError, SchemaError
from mlray.offline.parquet import commit_new, stored_schema, write_file

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ROWS = pa.table(
    {
        "user": [1, 2, 3],
        "at": pa.array([NOON, None, NOON], pa.timestamp("us", tz="UTC")),
        "local": pa.array([NOON.replace(tzinfo=None)] * 3, pa.timestamp("us")),
        "day": pa.array([date(2026, 3, 1)] * 3),
        "price": pa.array([Decimal("1.25"), Decimal("-9.99"), None], pa.decimal128(6, 2)),
        "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
        "country": ["PT", "ES", None],
    }
)
SCHEMA = stored_schema(ROWS.schema, "rows")


def made(root: Path, rows: pa.Table, stats: list[str], **options: Any) -> DeltaTable:
    """A table of one file."""
    action = write_file(str(root), "one.parquet", rows, stats=stats)
    commit_new(str(root), stored_schema(rows.schema, "rows"), [action], **options)
    return DeltaTable(str(root))


def test_other_readers_get_the_rows_back(tmp_path: Path) -> None:
    table = made(tmp_path, ROWS, ["user", "at"])
    assert table.to_pyarrow_table().cast(ROWS.schema).equals(ROWS)
    assert pl.read_delta(str(tmp_path)).to_dicts() == ROWS.to_pylist()


def test_the_log_keeps_bounds_of_every_kind_that_has_them(tmp_path: Path) -> None:
    found = pa.table(made(tmp_path, ROWS, ROWS.column_names).get_add_actions(flatten=True)).to_pylist()[0]
    assert (found["num_records"], found["null_count.price"], found["null_count.at"]) == (3, 1, 1)
    assert (found["min.user"], found["max.user"]) == (1, 3)
    assert (found["min.at"], found["max.at"]) == (NOON, NOON)
    assert (found["min.local"], found["min.day"]) == (NOON.replace(tzinfo=None), date(2026, 3, 1))
    assert (found["min.price"], found["max.price"]) == (Decimal("-9.99"), Decimal("1.25"))
    assert (found["min.country"], found["max.country"]) == ("ES", "PT")


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([1.0, float("nan")]),
        pa.array([1.0, float("inf")]),
        pa.array(["a", "b" * 33]),
        pa.array([Decimal("0.1"), Decimal("12345678901234567.1")], pa.decimal128(20, 1)),
        pa.array([0, 2**62], pa.timestamp("us", tz="UTC")),
        pa.array([None, None], pa.int64()),
    ],
)
def test_bounds_that_the_log_cannot_say_exactly_are_left_out(cells: pa.Array, tmp_path: Path) -> None:
    action = write_file(str(tmp_path), "one.parquet", pa.table({"x": cells}), stats=["x"])
    assert '"minValues": {}, "maxValues": {}' in action.stats


def test_row_groups_have_bounds_of_the_columns_named(tmp_path: Path) -> None:
    write_file(str(tmp_path), "one.parquet", pa.table({"k": range(10), "v": range(10)}), stats=["k"], row_group=4)
    groups = [pq.read_metadata(tmp_path / "one.parquet").row_group(i) for i in range(3)]
    assert [(g.column(0).statistics.min, g.column(0).statistics.max) for g in groups] == [(0, 3), (4, 7), (8, 9)]
    assert all(g.column(1).statistics is None for g in groups)


def test_a_column_without_nulls_needs_no_levels(tmp_path: Path) -> None:
    write_file(str(tmp_path), "one.parquet", ROWS, stats=[])
    levels = {
        c.name: c.max_definition_level for c in map(pq.ParquetFile(tmp_path / "one.parquet").schema.column, (0, 1))
    }
    assert levels == {"user": 0, "at": 1}


def test_a_file_of_the_same_name_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for rows in (ROWS, ROWS.slice(0, 1)):
        write_file(str(tmp_path), "part/one.parquet", rows, stats=[])
    assert pq.read_metadata(tmp_path / "part/one.parquet").num_rows == 1
    assert [p.name for p in tmp_path.rglob("*.*")] == ["one.parquet"]


def test_partition_columns_come_from_the_log(tmp_path: Path) -> None:
    action = write_file(str(tmp_path), "day=1/one.parquet", pa.table({"x": [1]}), stats=[], partition={"day": "1"})
    schema = pa.schema([("x", pa.int64()), ("day", pa.int32())])
    commit_new(str(tmp_path), schema, [action], partition_by=["day"])
    assert DeltaTable(str(tmp_path)).to_pyarrow_table().to_pylist() == [{"x": 1, "day": 1}]


def test_a_new_table_keeps_its_transactions_and_description(tmp_path: Path) -> None:
    table = made(tmp_path, ROWS, [], transactions=[Transaction("app", 7)], description="kept by a test")
    assert (table.version(), table.transaction_version("app")) == (0, 7)
    assert table.metadata().description == "kept by a test"


def test_a_table_that_is_there_is_a_conflict(tmp_path: Path) -> None:
    made(tmp_path, ROWS, [])
    with pytest.raises(Conflict, match="already exists"):
        commit_new(str(tmp_path), SCHEMA, [])


def test_types_are_those_that_delta_has() -> None:
    given = pa.schema(
        [
            ("a", pa.uint32()),
            ("b", pa.large_string()),
            ("c", pa.timestamp("ns", tz="Europe/Lisbon")),
            ("d", pa.dictionary(pa.int8(), pa.string())),
            ("e", pa.large_list(pa.timestamp("ms"))),
        ]
    )
    micro = pa.timestamp("us")
    wanted = [pa.int64(), pa.string(), pa.timestamp("us", tz="UTC"), pa.string(), pa.list_(micro)]
    assert stored_schema(given, "rows").types == wanted


def test_a_type_that_delta_lacks_is_named() -> None:
    with pytest.raises(SchemaError, match="rows: its columns cannot be kept"):
        stored_schema(pa.schema([("took", pa.duration("us"))]), "rows")


def test_files_behind_a_url_are_the_same_and_compressed(tmp_path: Path) -> None:
    action = write_file(f"file://{tmp_path}/new", "part=1/one.parquet", ROWS, stats=["user"], partition={"part": "1"})
    path = tmp_path / "new" / "part=1" / "one.parquet"
    assert pq.read_table(path, partitioning=None).cast(ROWS.schema).equals(ROWS)
    assert pq.read_metadata(path).row_group(0).column(0).compression == "LZ4"
    assert action.size == path.stat().st_size


def test_a_place_that_takes_no_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MlrayError, match="cannot be written"):
        write_file(str(tmp_path / "file"), "one.parquet", ROWS, stats=[])
