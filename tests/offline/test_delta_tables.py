"""Any Delta table is read as it is meant, or refused by an error that says what it has and what to do."""

import base64
import json
import os
import struct
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_log import PLAIN, add, entry, metadata, protocol
from deltalake import DeltaTable, write_deltalake

from mlray.errors import MlrayError, SchemaError, TableNotFound, TimeError
from mlray.offline import delta

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ABC = pa.table({"a": [1, 2, 3]})


def rows(path: Path | str, version: Any = None) -> list[dict[str, Any]]:
    """All rows of a table, each as a dict."""
    table = delta.table_at(str(path), "source events", version)
    return delta.read(str(path), table.version, table.schema.names).to_pylist()


@pytest.mark.parametrize("values", [
    ["plain", "é x", "50%", "a/b:c=d?e&f#g", "100%25", "__x__", "'quoted'", '"', "\\", "+", "日本", None],
    [7, -1, 2**62, None],
    [date(2026, 1, 1), date(1, 1, 1), date(9999, 12, 31), None],
    [NOON, NOON + timedelta(microseconds=1), datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), None],
    [NOON.replace(tzinfo=None, microsecond=1), None],
    [True, False, None],
    [1.5, -0.25, None],
    [Decimal("1.50"), Decimal("2.25"), None],
    [b"x", None],
])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_table_partitioned_by_any_type_keeps_its_values(values: list[Any], scheme: str, tmp_path: Path) -> None:
    given = pa.table({"p": values, "n": range(len(values))})
    path = f"{scheme}{tmp_path}/the table"
    write_deltalake(path, given, partition_by=["p"])
    assert sorted(rows(path), key=lambda row: row["n"]) == given.to_pylist()


@pytest.mark.parametrize(("kind", "text", "value"), [
    ("decimal(10,2)", "-2.25", Decimal("-2.25")),
    ("timestamp", "2026-01-01T12:00:00.000001Z", NOON + timedelta(microseconds=1)),
    ("timestamp", "2026-01-01 12:00:00", NOON),
    ("string", "", None),
    ("short", "-7", -7),
    ("binary", "\\u0001\\u00ff", b"\1\xff"),
])
def test_partition_values_as_other_engines_write_them(kind: str, text: str, value: Any, tmp_path: Path) -> None:
    entry(tmp_path, 0, PLAIN, metadata({"a": "long", "p": kind}, by=("p",)),
          add(tmp_path, "f.parquet", ABC.slice(0, 1), partitionValues={"p": text}))
    assert rows(tmp_path) == [{"a": 1, "p": value}]


@pytest.mark.parametrize("name", ["a b", "a.b", "select", 'a"b', "é", "a'b", "a%20b"])
def test_a_column_may_have_any_name(name: str, tmp_path: Path) -> None:
    given = pa.table({name: [1, 2, None], "a": [{"b": 1}, {"b": 2}, None]})
    write_deltalake(str(tmp_path / "t"), given)
    assert rows(tmp_path / "t") == given.to_pylist()
    assert delta.table_at(str(tmp_path / "t"), "t").files[0].high[name] == 2


def test_a_table_of_many_small_files_opens_and_reads_in_moments(tmp_path: Path) -> None:
    files = [add(tmp_path, f"part-{i:04}.parquet", pa.table({"a": [i]})) for i in range(1_000)]
    entry(tmp_path, 0, PLAIN, metadata({"a": "long"}), *files)
    started = process_time()
    table = delta.table_at(str(tmp_path), "events")
    assert process_time() - started < 2
    assert (len(table.files), table.rows) == (1_000, 1_000)
    assert delta.read(table.path, 0, ["a"]).column("a").to_pylist() == list(range(1_000))
    assert process_time() - started < 15


def test_a_column_added_later_is_null_in_older_files(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({"a": [1]}))
    write_deltalake(str(tmp_path), pa.table({"b": ["x"], "a": [2]}), mode="append", schema_mode="merge")
    found = rows(tmp_path)
    assert sorted(found, key=lambda row: row["a"]) == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


US, NS, MS = (pa.timestamp(unit) for unit in ("us", "ns", "ms"))
UTC_US = pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(("kind", "given", "value"), [
    ("long", pa.array([7], pa.int32()), 7),
    ("long", pa.array([7], pa.uint64()), 7),
    ("integer", pa.array([7], pa.int64()), 7),
    ("double", pa.array([0.5], pa.float32()), 0.5),
    ("double", pa.array([7], pa.int32()), 7.0),
    ("float", pa.array([0.5, float("nan"), None], pa.float64()), 0.5),
    ("decimal(20,4)", pa.array([Decimal("1.25")], pa.decimal128(10, 2)), Decimal("1.2500")),
    ("timestamp", pa.array([1_000], NS), datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ("timestamp", pa.array([1], MS), datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC)),
    ("timestamp", pa.array([1], US), datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ("timestamp", pa.array([NOON], pa.timestamp("us", tz="Asia/Tokyo")), NOON),
    ("timestamp_ntz", pa.array([1], UTC_US), datetime(1970, 1, 1, 0, 0, 0, 1)),
    ("timestamp_ntz", pa.array([date(2026, 1, 1)]), datetime(2026, 1, 1)),
    ("string", pa.array(["x"]).dictionary_encode(), "x"),
    ("string", pa.array(["x"], pa.large_string()), "x"),
    ("string", pa.array([b"x"]), "x"),
    ("double", pa.nulls(1), None),
])
def test_a_file_of_another_type_is_cast_where_no_value_changes(
    kind: str, given: pa.Array, value: Any, tmp_path: Path
) -> None:
    file = add(tmp_path, "f.parquet", pa.table({"a": given}))
    entry(tmp_path, 0, protocol("timestampNtz"), metadata({"a": kind}), file)
    assert rows(tmp_path)[0] == {"a": value}


@pytest.mark.parametrize(("kind", "given", "types"), [
    ("integer", pa.array([2**40]), "int64.*int32"),
    ("long", pa.array([2**63], pa.uint64()), "uint64.*int64"),
    ("long", pa.array([1.0]), "double.*int64"),
    ("long", pa.array(["1"]), "string.*int64"),
    ("string", pa.array([1]), "int64.*string"),
    ("string", pa.array([b"\xff"]), "binary.*string"),
    ("float", pa.array([0.1]), "double.*float"),
    ("double", pa.array([2**53 + 1]), "int64.*double"),
    ("boolean", pa.array([1]), "int64.*bool"),
    ("date", pa.array([NOON]), "timestamp.*date32"),
    ("timestamp", pa.array([1], NS), "timestamp.ns.*timestamp.us"),
    ("timestamp", pa.array([1]), "int64.*timestamp"),
    ("decimal(10,1)", pa.array([Decimal("1.25")]), "decimal.*decimal"),
])
def test_a_file_whose_values_do_not_fit_is_named_with_both_types(
    kind: str, given: pa.Array, types: str, tmp_path: Path
) -> None:
    good = add(tmp_path, "e.parquet", pa.table({"b": [1]}))
    bad = add(tmp_path, "f.parquet", pa.table({"a": given}))
    entry(tmp_path, 0, PLAIN, metadata({"a": kind, "b": "long"}), good, bad)
    with pytest.raises(SchemaError, match=rf"column 'a' is {types}"):
        rows(tmp_path)
    with pytest.raises(SchemaError, match=r"version 0.*f\.parquet"):
        rows(tmp_path)


def test_int96_times_reach_from_year_1_to_9999(tmp_path: Path) -> None:
    ends = [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]
    pq.write_table(pa.table({"at": pa.array(ends, UTC_US)}), tmp_path / "f.parquet",
                   use_deprecated_int96_timestamps=True, store_schema=False)
    entry(tmp_path, 0, PLAIN, metadata({"at": "timestamp"}), add(tmp_path, "f.parquet", ABC))
    assert [row["at"] for row in rows(tmp_path)] == ends


@pytest.mark.parametrize("written", ["f g%.parquet", "./f g%.parquet"])
@pytest.mark.parametrize("absolute", ["", "/", "file://", "file:"])
def test_paths_in_the_log_may_be_absolute_and_are_percent_encoded(
    written: str, absolute: str, tmp_path: Path
) -> None:
    file = add(tmp_path, "f g%.parquet", ABC)
    encoded = written.replace("%", "%25").replace(" ", "%20")
    file["add"]["path"] = {"": encoded, "/": f"{tmp_path}/{encoded}"}.get(absolute, f"{absolute}{tmp_path}/{encoded}")
    entry(tmp_path, 0, PLAIN, metadata({"a": "long"}), file)
    assert rows(tmp_path) == ABC.to_pylist()


def test_a_file_in_the_log_but_not_on_disk_is_named(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), ABC)
    file = delta.table_at(str(tmp_path / "t"), "t").files[0].path
    Path(file).unlink()
    for path in (str(tmp_path / "t"), f"file://{tmp_path}/t"):
        with pytest.raises(MlrayError, match=rf"{path} version 0: the file .*{Path(file).name}.*not there.*vacuum"):
            rows(path)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    entry(tmp_path, 0, PLAIN, metadata({"a": "long"}), add(tmp_path, "f.parquet", ABC))
    (tmp_path / "f.parquet").write_bytes(b"not parquet")
    with pytest.raises(MlrayError, match=r"version 0: the file .*f\.parquet cannot be read"):
        rows(tmp_path)


def versions(path: Path, *ages: float) -> datetime:
    """A table of one version per age in hours, oldest first, each a row more; gives now."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for version, age in enumerate(ages):
        head = [PLAIN, metadata({"a": "long"})] if version == 0 else []
        entry(path, version, *head, add(path, f"{version}.parquet", pa.table({"a": [version]})))
        written = (now - timedelta(hours=age)).timestamp()
        os.utime(path / "_delta_log" / f"{version:020}.json", (written, written))
    return now


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_version_may_be_given_by_number_or_by_time(scheme: str, tmp_path: Path) -> None:
    #  version     0         1         2
    #  hours ago   3    2    1    0    -    a commit belongs to its own instant
    now = versions(tmp_path, 3, 2, 1)
    hour = timedelta(hours=1)
    asked = [now - 3 * hour, now - 2 * hour - timedelta(seconds=1), now - 2 * hour, now, 1, None]
    assert [delta.table_at(f"{scheme}{tmp_path}", "t", v).version for v in asked] == [0, 0, 1, 2, 1, 2]
    assert len(rows(f"{scheme}{tmp_path}", now - 2 * hour)) == 2


def test_a_time_is_aware_and_not_before_the_table(tmp_path: Path) -> None:
    now = versions(tmp_path, 3)
    with pytest.raises(TimeError, match=r"timezone\.utc"):
        rows(tmp_path, now.replace(tzinfo=None))
    with pytest.raises(TimeError, match=r"source events.*no version as of 2025-12-31T20.*version 0 of 2025-12-31T21"):
        rows(tmp_path, now - timedelta(hours=4))


def test_a_version_that_is_not_there_is_refused(tmp_path: Path) -> None:
    versions(tmp_path, 2, 1)
    with pytest.raises(MlrayError, match=r"no version 9 .*newest is 1"):
        rows(tmp_path, 9)
    with pytest.raises(MlrayError, match=r"version -1.*count from 0"):
        rows(tmp_path, -1)
    with pytest.raises(TableNotFound):
        rows(tmp_path / "nowhere")


def test_a_table_that_keeps_its_commit_times_goes_by_them(tmp_path: Path) -> None:
    features = {"protocol": {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["inCommitTimestamp"]}}
    conf = {"delta.enableInCommitTimestamps": "true"}
    for version in range(3):
        head = [features, metadata({"a": "long"}, configuration=conf)] if version == 0 else []
        own = {"commitInfo": {"timestamp": 0, "operation": "WRITE", "inCommitTimestamp": 1_000 * (1 + version)}}
        entry(tmp_path, version, *head, add(tmp_path, f"{version}.parquet", ABC))
        log = tmp_path / "_delta_log" / f"{version:020}.json"
        log.write_text("\n".join([json.dumps(own), *log.read_text().splitlines()[1:]]))
    at = [datetime.fromtimestamp(second, UTC) for second in (1, 1.5, 2, 9)]
    assert [delta.table_at(str(tmp_path), "t", moment).version for moment in at] == [0, 0, 1, 2]


def test_a_table_whose_old_log_is_cleaned_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    now = versions(tmp_path, 3, 2, 1)
    DeltaTable(str(tmp_path)).create_checkpoint()
    for version in (0, 1):
        (tmp_path / "_delta_log" / f"{version:020}.json").unlink()
    assert sorted(row["a"] for row in rows(tmp_path)) == [0, 1, 2]
    with pytest.raises(TimeError, match="oldest commit in its log is version 2"):
        rows(tmp_path, now - timedelta(hours=2))
    with pytest.raises(MlrayError, match=r"no version 1.*cleaned"):
        rows(tmp_path, 1)


def test_a_v2_checkpoint_is_read(tmp_path: Path) -> None:
    head = [protocol("v2Checkpoint"), metadata({"a": "long"}, configuration={"delta.checkpointPolicy": "v2"})]
    files = [add(tmp_path, f"{i}.parquet", pa.table({"a": [i]})) for i in range(3)]
    name = "00000000000000000001.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.json"
    entry(tmp_path, 1, files[1])
    entry(tmp_path, 2, files[2])
    actions = [{"checkpointMetadata": {"version": 1}}, *head, *files[:2]]
    (tmp_path / "_delta_log" / name).write_text("\n".join(json.dumps(a) for a in actions))
    (tmp_path / "_delta_log" / "_last_checkpoint").write_text(json.dumps({"version": 1, "size": 5}))
    assert [row["a"] for row in rows(tmp_path)] == [0, 1, 2]


def deletion_vector(*deleted: int) -> dict[str, Any]:
    """An inline deletion vector: a 64-bit Roaring bitmap, in Z85."""
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(deleted) - 1, 16) + struct.pack(f"<{len(deleted)}H", *deleted)
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    text = base64.b85encode(data + b"\0" * (-len(data) % 4)).decode()
    ours = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return {"storageType": "i", "pathOrInlineDv": text.translate(str.maketrans(ours, z85)), "sizeInBytes": len(data),
            "cardinality": len(deleted)}


def test_deletion_vectors_are_refused_while_there_are_any(tmp_path: Path) -> None:
    file = add(tmp_path, "f.parquet", ABC)
    entry(tmp_path, 0, protocol("deletionVectors"), metadata({"a": "long"}), file)
    marked = add(tmp_path, "f.parquet", ABC, deletionVector=deletion_vector(1))
    removed = {"remove": {"path": "f.parquet", "dataChange": True, "deletionTimestamp": 0}}
    entry(tmp_path, 1, removed, marked)
    assert len(rows(tmp_path, 0)) == 3
    with pytest.raises(MlrayError, match=r"source events.*deletion vectors .*f\.parquet.*REORG TABLE.*PURGE"):
        rows(tmp_path)


@pytest.mark.parametrize("mode", ["name", "id"])
@pytest.mark.parametrize("needs", [protocol("columnMapping"), protocol(reader=2, writer=5)])
def test_column_mapping_is_refused_where_it_is_on(mode: str, needs: dict[str, Any], tmp_path: Path) -> None:
    notes = {"a": {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}}
    conf = {"delta.columnMapping.mode": mode}
    entry(tmp_path, 0, needs, metadata({"a": "long"}, configuration=conf, notes=notes),
          add(tmp_path, "f.parquet", ABC.rename_columns(["col-1"])))
    with pytest.raises(MlrayError, match=rf"source events.*column mapping.*'{mode}'.*SET TBLPROPERTIES"):
        rows(tmp_path)


@pytest.mark.parametrize("feature", ["columnMapping", "deletionVectors", "timestampNtz", "vacuumProtocolCheck",
                                     "typeWidening"])
def test_a_feature_that_changes_no_row_is_no_hindrance(feature: str, tmp_path: Path) -> None:
    entry(tmp_path, 0, protocol(feature), metadata({"a": "long"}), add(tmp_path, "f.parquet", ABC))
    assert rows(tmp_path) == ABC.to_pylist()


@pytest.mark.parametrize("feature", ["variantType", "variantShredding-preview", "catalogManaged", "notYetInvented"])
def test_any_other_feature_is_refused_by_name(feature: str, tmp_path: Path) -> None:
    entry(tmp_path, 0, protocol(feature), metadata({"a": "long"}), add(tmp_path, "f.parquet", ABC))
    with pytest.raises(MlrayError, match=rf"source events.*{tmp_path}.*(?i:{feature}|catalog-managed)"):
        rows(tmp_path)


def test_an_empty_table_has_a_schema_and_no_files(tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path), pa.schema([("a", pa.int64())]))
    table = delta.table_at(str(tmp_path), "t")
    assert (table.files, table.rows, table.size) == ((), 0, 0)
    assert delta.read(str(tmp_path), 0, ["a"]) == ABC.slice(0, 0)


def test_files_without_statistics_are_read(tmp_path: Path) -> None:
    broken = add(tmp_path, "g.parquet", ABC, stats="{oops")
    entry(tmp_path, 0, PLAIN, metadata({"a": "long"}), add(tmp_path, "f.parquet", ABC, stats=None), broken)
    table = delta.table_at(str(tmp_path), "t")
    assert [(file.rows, file.low, file.high) for file in table.files] == [(None, {}, {})] * 2
    assert len(rows(tmp_path)) == 6


def test_a_read_of_no_columns_still_counts_rows(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), ABC)
    assert delta.read(str(tmp_path), 0, []).num_rows == 3
