"""A managed copy holds exactly the rows that a view can see, each in the bucket of its key, every file sorted."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

import mlray as ml
from mlray.errors import Conflict, DefinitionError, SchemaError, UnknownName
from mlray.features.rows import KNOWN, SEQ, TS, events
from mlray.offline import cutting, delta, layout, relayout, scan
from mlray.offline.bucket import buckets
from mlray.offline.copies import BUCKET, folder
from mlray.offline.layout import Layout

pytestmark = pytest.mark.usefixtures("ray_cluster")

START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE = ml.DeltaSource("events", path="events", timestamp="at")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets of about 50 rows, so that small tables have many."""
    monkeypatch.setattr(layout, "ROWS", 50)
    monkeypatch.setattr(layout, "MOST_ROWS", 200)


def rows(rng: Random, count: int) -> pa.Table:
    """Keys of every kind, some null; times, some null."""
    users = [rng.choice([None, *range(-20, 60)]) for _ in range(count)]
    return pa.table(
        {
            "user_id": pa.array(users, pa.int32()),
            "name": [None if u is None else f"{'x' * (70 if u % 2 else 0)}user {u}" for u in users],
            "flag": pa.array([None if u is None else u > 20 for u in users]),
            "day": pa.array([None if u is None else START.date() + timedelta(days=u) for u in users]),
            "price": pa.array([None if u is None else Decimal(u) / 4 for u in users], pa.decimal128(9, 2)),
            "at": pa.array(_times(rng, count), pa.timestamp("us", tz="UTC")),
            "known": pa.array(_times(rng, count), pa.timestamp("us")),
            "txn": pa.array([rng.choice([None, 1, 2, 3]) for _ in range(count)]),
            "country": [rng.choice(["PT", "ES", None]) for _ in range(count)],
            "value": [rng.choice([None, float("nan"), -0.0, rng.random()]) for _ in range(count)],
        }
    )


def _times(rng: Random, count: int) -> list[datetime | None]:
    return [rng.choice([None, *(START + timedelta(seconds=rng.randrange(99)) for _ in range(9))]) for _ in range(count)]


def check(copy: Layout, lake: Path, source: ml.DeltaSource) -> None:
    """The property of this file's first line, against the source as it is read by everyone else."""
    view = _view(source, copy.keys)
    table = delta.table_at(delta.resolve(str(lake), source.path), "source", copy.source_version)
    raw = scan.read(table.files, table.schema, table.schema.names, "source")
    number = pa.array(range(raw.num_rows))
    seen = events(view, raw.append_column("number", number)).column("number")
    stored = [(bucket, file) for bucket in range(copy.buckets) for file in copy.files(bucket)]
    assert len(stored) == len(copy.table.files)
    kept = [scan.read([file], copy.table.schema, table.schema.names, "copy") for _, file in stored]
    assert _multiset([raw.take(seen.combine_chunks())]) == _multiset(kept)
    for (bucket, file), part in zip(stored, kept, strict=True):
        found = events(view, part.append_column("number", pa.array(range(part.num_rows))))
        assert set(buckets(found.select(list(copy.keys)), copy.buckets).tolist()) == {bucket}
        order = [c for c in (*copy.keys, TS, KNOWN, SEQ) if c in found.column_names]
        marks = list(zip(*(found.column(c).to_pylist() for c in order), strict=True))
        assert marks == sorted(marks, key=lambda mark: [(v is not None, v) for v in mark])
        assert file.rows == part.num_rows


def _view(source: ml.DeltaSource, keys: Sequence[str]) -> ml.FeatureView:
    return ml.FeatureView(
        "v", entity=ml.Entity("e", keys=keys), source=replace(source, where=None), features=["number"]
    )


def _multiset(tables: Sequence[pa.Table]) -> Counter[str]:
    return Counter(repr(row) for table in tables for row in table.to_pylist())


def write(lake: Path, table: pa.Table, path: str = "events", **options: Any) -> None:
    write_deltalake(str(lake / path), table, **{"mode": "append", **options})


def newest(lake: Path, path: str = "events") -> int:
    return int(DeltaTable(str(lake / path)).version())


SOURCES = {
    "an integer": (SOURCE, ["user_id"]),
    "a long text": (SOURCE, ["name"]),
    "several columns": (SOURCE, ["country", "flag", "day", "price"]),
    "a time": (SOURCE, ["known"]),
    "a derived key": (replace(SOURCE, select={"group": "user_id % 7"}), ["group"]),
    "a replaced key": (replace(SOURCE, select={"name": "UPPER(country)"}), ["name"]),
    "a derived time": (replace(SOURCE, timestamp="later", select={"later": "at + INTERVAL '1 hour'"}), ["user_id"]),
    "where drops nothing": (replace(SOURCE, where="value > 0.5"), ["user_id"]),
    "known_at": (replace(SOURCE, known_at="known"), ["user_id"]),
    "known_at and sequence": (replace(SOURCE, known_at="known", sequence="txn"), ["user_id"]),
    "a text sequence": (replace(SOURCE, sequence="country"), ["user_id"]),
    "no timestamp": (replace(SOURCE, timestamp=None, known_at="known"), ["user_id", "country"]),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("source", "keys"), SOURCES.values(), ids=SOURCES)
def test_a_copy_holds_what_can_be_seen(source: ml.DeltaSource, keys: list[str], tmp_path: Path) -> None:
    rng = Random(7)
    for partition in (["country"], None):
        write(tmp_path, rows(rng, 200), partition_by=partition)
    copy = layout.refresh(str(tmp_path), source, keys)
    assert (copy.source_version, copy.buckets) == (1, 8)
    check(copy, tmp_path, source)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(12))
def test_a_copy_follows_whatever_happens_to_its_source(seed: int, tmp_path: Path) -> None:
    rng = Random(seed)
    source, keys = SOURCES[rng.choice(sorted(SOURCES))]
    write(tmp_path, rows(rng, 60))
    new_values = {"country": "FR"}
    happenings: dict[str, Callable[[], Any]] = {
        "append": lambda: write(tmp_path, rows(rng, rng.choice([0, 1, 40, 300]))),
        "append again": lambda: write(tmp_path, rows(rng, 3)),
        "delete": lambda: DeltaTable(str(tmp_path / "events")).delete(f"user_id = {rng.randrange(60)}"),
        "update": lambda: DeltaTable(str(tmp_path / "events")).update(predicate="txn = 2", new_values=new_values),
        "overwrite": lambda: write(tmp_path, rows(rng, 90), mode="overwrite"),
        "optimize": lambda: DeltaTable(str(tmp_path / "events")).optimize.compact(),
        "refresh": lambda: check(layout.refresh(str(tmp_path), source, keys), tmp_path, source),
    }
    weights = [6, 6, 1, 1, 1, 2, 8]
    for name in rng.choices(list(happenings), weights, k=16):
        happenings[name]()
    check(layout.refresh(str(tmp_path), source, keys), tmp_path, source)


@pytest.mark.usefixtures("small")
def test_a_lake_behind_a_url_has_copies_too(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 150))
    for seed in range(9):  # the last fold small files
        copy = layout.refresh(f"file://{tmp_path}", SOURCE, ["user_id"])
        write(tmp_path, rows(Random(seed), 20), mode="overwrite" if seed == 8 else "append")
    assert copy.source_version == 8
    check(layout.refresh(f"file://{tmp_path}", SOURCE, ["user_id"]), tmp_path, SOURCE)
    check(copy, tmp_path, SOURCE)


def test_a_refresh_without_news_does_nothing(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 50))
    first = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    again = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    assert again.table == first.table
    assert DeltaTable(first.table.path).version() == 0


@pytest.mark.usefixtures("small")
def test_an_append_adds_files_and_rewrites_none(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 400))
    before = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    write(tmp_path, rows(Random(2), 30))
    after = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    assert set(before.table.files) < set(after.table.files)
    assert DeltaTable(after.table.path).version() == 1


@pytest.mark.usefixtures("small")
def test_rows_that_were_appended_and_then_compacted_are_added_once(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 60))
    first = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    write(tmp_path, rows(Random(2), 20))
    DeltaTable(str(tmp_path / "events")).optimize.compact()
    write(tmp_path, rows(Random(3), 20))
    copy = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    assert set(first.table.files) < set(copy.table.files)
    check(copy, tmp_path, SOURCE)


@pytest.mark.usefixtures("small")
def test_a_bucket_never_has_more_than_eight_files_and_its_large_file_stays(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 400))
    large = {file.path for file in layout.refresh(str(tmp_path), SOURCE, ["user_id"]).table.files}
    most = 0
    for seed in range(20):
        write(tmp_path, rows(Random(seed), 10))
        copy = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
        most = max(most, *(len(copy.files(b)) for b in range(copy.buckets)))
        check(copy, tmp_path, SOURCE)
    assert most == 8
    assert len(large & {file.path for file in copy.table.files}) > len(large) / 2


@pytest.mark.usefixtures("small")
def test_a_copy_that_has_grown_is_laid_out_in_more_buckets(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 100))
    assert layout.refresh(str(tmp_path), SOURCE, ["user_id"]).buckets == 2
    write(tmp_path, rows(Random(2), 900))
    copy = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    assert copy.buckets == 32
    check(copy, tmp_path, SOURCE)


def test_a_column_that_the_source_gained_is_null_in_older_rows(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 40))
    first = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    more = rows(Random(2), 40)
    write(tmp_path, more.append_column("more", pa.array(range(40))), schema_mode="merge")
    copy = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    assert set(first.table.files) < set(copy.table.files)
    check(copy, tmp_path, SOURCE)


def test_a_column_of_a_wider_type_is_laid_out_anew(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 40))
    layout.refresh(str(tmp_path), SOURCE, ["name"])
    log = tmp_path / "events" / "_delta_log"
    [metadata] = [line for line in (log / f"{0:020}.json").read_text().splitlines() if "metaData" in line]
    (log / f"{1:020}.json").write_text(metadata.replace('\\"integer\\"', '\\"long\\"'))
    copy = layout.refresh(str(tmp_path), SOURCE, ["name"])
    assert copy.table.schema.field("user_id").type == pa.int64()
    check(copy, tmp_path, SOURCE)


def test_files_that_were_removed_whole_are_gone_from_the_copy(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 90), partition_by=["country"])
    layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    DeltaTable(str(tmp_path / "events")).delete("country = 'PT'")
    check(layout.refresh(str(tmp_path), SOURCE, ["user_id"]), tmp_path, SOURCE)


def test_a_table_that_was_removed_and_made_again_is_another(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 40))
    layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    (tmp_path / "events").rename(tmp_path / "old")
    write(tmp_path, rows(Random(2), 40))
    assert layout.find(str(tmp_path), SOURCE, ["user_id"]) is None
    check(layout.refresh(str(tmp_path), SOURCE, ["user_id"]), tmp_path, SOURCE)


@pytest.mark.parametrize(
    "changed", [{"timestamp": "known"}, {"select": {"user_id": "user_id + 1"}}, {"sequence": "txn"}]
)
def test_a_changed_definition_has_a_copy_of_its_own(changed: dict[str, Any]) -> None:
    assert folder("lake", replace(SOURCE, **changed), ["user_id"]) != folder("lake", SOURCE, ["user_id"])


@pytest.mark.parametrize("changed", [{"where": "value > 0"}, {"select": {"twice": "value * 2"}}, {"lag": ml.hours(1)}])
def test_what_only_views_read_shares_one_copy(changed: dict[str, Any]) -> None:
    assert folder("lake", replace(SOURCE, **changed), ["user_id"]) == folder("lake", SOURCE, ["user_id"])


def test_a_reader_of_an_older_version_keeps_its_files(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 40))
    old = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    write(tmp_path, rows(Random(2), 50), mode="overwrite")
    layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    check(old, tmp_path, SOURCE)
    found = layout.find(str(tmp_path), SOURCE, ["user_id"], mirrors=0)
    assert found is not None
    assert found.table == old.table


def test_a_version_that_no_copy_mirrors_is_not_found(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, rows(Random(seed), 40))
    assert layout.find(str(tmp_path), SOURCE, ["user_id"]) is None
    layout.refresh(str(tmp_path), SOURCE, ["user_id"], 1)
    found = [layout.find(str(tmp_path), SOURCE, ["user_id"], mirrors=v) for v in range(3)]
    assert [f and f.source_version for f in found] == [None, 1, None]
    with pytest.raises(Conflict, match="mirrors version 1 already and nothing mirrors version 0"):
        layout.refresh(str(tmp_path), SOURCE, ["user_id"], 0)


def test_a_version_whose_files_may_be_gone_by_now_is_not_found(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 40))
    root = Path(layout.refresh(str(tmp_path), SOURCE, ["user_id"]).table.path)
    write(tmp_path, rows(Random(2), 50), mode="overwrite")
    layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    entry = root / "_delta_log" / f"{1:020}.json"
    a_week_ago = int((datetime.now(UTC) - timedelta(days=7)).timestamp() * 1000)
    entry.write_text(re.sub(r'"deletionTimestamp":\d+', f'"deletionTimestamp":{a_week_ago}', entry.read_text()))
    assert layout.find(str(tmp_path), SOURCE, ["user_id"], mirrors=0) is None
    assert layout.find(str(tmp_path), SOURCE, ["user_id"], mirrors=1) is not None


def test_what_a_crash_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 40))
    root = Path(layout.refresh(str(tmp_path), SOURCE, ["user_id"]).table.path)
    old, young = (root / f"{BUCKET}=0" / name for name in ("old.parquet", "young.parquet"))
    for path in (old, young):
        path.write_bytes(b"half")
    a_month_ago = (datetime.now(UTC) - timedelta(days=30)).timestamp()
    os.utime(old, (a_month_ago, a_month_ago))
    write(tmp_path, rows(Random(2), 50), mode="overwrite")
    layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    assert (old.exists(), young.exists()) == (False, True)


def test_rows_read_in_slices_and_long_texts_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, rows(Random(1), 200))
    table = delta.table_at(str(tmp_path / "events"), "source")
    job = relayout.Job(str(tmp_path / "copy"), SOURCE, ("name",), table.schema, 4, 2, "stem", {})
    whole = relayout.scattered(job, table.files)
    first = relayout.gathered(job, 1, [whole[1]])
    monkeypatch.setattr(relayout, "_CUT_BYTES", 2_000)
    monkeypatch.setattr(cutting, "_LONG", 100)
    cut = relayout.scattered(job, table.files)
    again = relayout.gathered(job, 1, [cut[1].slice(0, 10), cut[1].slice(10)])
    assert cut[0].column("name").type == pa.large_string()
    assert repr([part.to_pylist() for part in cut]) == repr([part.to_pylist() for part in whole])
    assert [action.stats for action in again.added] == [action.stats for action in first.added]
    assert pq.read_schema(tmp_path / "copy" / again.added[0].path).field("name").type == pa.string()


def test_an_empty_table_has_an_empty_copy_that_grows(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 5).schema.empty_table())
    assert layout.refresh(str(tmp_path), SOURCE, ["user_id"]).table.files == ()
    write(tmp_path, rows(Random(1), 50))
    check(layout.refresh(str(tmp_path), SOURCE, ["user_id"]), tmp_path, SOURCE)


def test_the_order_of_files_changes_no_row_of_a_copy(tmp_path: Path) -> None:
    table, whole = rows(Random(1), 300), replace(SOURCE, known_at="known", sequence="txn")
    unique = table.set_column(7, "txn", pa.array(range(300)))
    found = []
    for lake, pieces in ((tmp_path / "a", [0, 100, 200]), (tmp_path / "b", [200, 0, 100])):
        for start in pieces:
            write(lake, unique.slice(start, 100))
        copy = layout.refresh(str(lake), whole, ["user_id"])
        found.append(scan.read(copy.table.files, unique.schema, unique.column_names, "copy"))
    assert repr(found[0].to_pylist()) == repr(found[1].to_pylist())


def test_the_log_keeps_bounds_of_keys_and_times(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 300))
    [file] = layout.refresh(str(tmp_path), SOURCE, ["user_id"]).table.files
    assert (file.low["user_id"], file.high["user_id"]) == (-20, 59)
    latest = int((START + timedelta(seconds=98)).timestamp()) * 1_000_000
    assert latest <= file.high["at"] <= latest + 1000


@pytest.mark.parametrize(
    ("source", "keys", "said"),
    [
        (SOURCE, ["value"], "is a key of type double"),
        (SOURCE, ["user_idd"], "did you mean 'user_id'"),
        (replace(SOURCE, timestamp="country"), ["user_id"], "a time is needed"),
    ],
)
def test_what_cannot_be_laid_out_is_one_clear_error(
    source: ml.DeltaSource, keys: list[str], said: str, tmp_path: Path
) -> None:
    write(tmp_path, rows(Random(1), 5))
    with pytest.raises(SchemaError, match=said):
        layout.refresh(str(tmp_path), source, keys)
    assert layout.find(str(tmp_path), source, keys) is None


def test_a_column_named_like_the_bucket_is_refused(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 5).append_column(BUCKET, pa.array(range(5))))
    with pytest.raises(SchemaError, match="rename it"):
        layout.refresh(str(tmp_path), SOURCE, ["user_id"])


def test_tables_that_mlray_makes_are_wanted(tmp_path: Path) -> None:
    write(tmp_path, rows(Random(1), 5))
    delta.append(str(tmp_path / "ours"), rows(Random(1), 5), "source ours")
    delta.append(str(tmp_path / "ours"), rows(Random(2), 5), "source ours")
    found = [layout.wanted(delta.table_at(str(tmp_path / name), "source")) for name in ("events", "ours")]
    assert found == [False, True]


def test_hot_keys_and_many_buckets_and_one_key_all_lie_in_one_bucket(tmp_path: Path) -> None:
    table = pa.table({"user_id": np.zeros(1000, dtype=np.int64), "at": pa.array(range(1000), pa.timestamp("us"))})
    write(tmp_path, table)
    copy = layout.refresh(str(tmp_path), SOURCE, ["user_id"])
    check(copy, tmp_path, SOURCE)


def test_every_rule_of_folding_is_kept() -> None:
    def files(*sizes: int) -> list[delta.File]:
        return [delta.File(f"f{i}", rows, rows) for i, rows in enumerate(sizes)]

    def folded(new: int, *sizes: int) -> list[int | None]:
        return [file.rows for file in relayout._small(files(*sizes), new)]

    assert folded(10, 1000, *[10] * 7) == [10] * 7
    assert folded(10, 100, *[10] * 7) == [100, *[10] * 7]  # 80 small rows are more than half of 100
    assert folded(1, *[5000] * 7, 900) == [900]  # one must go, however large


SPENDING = ml.FeatureView("spending", entity=ml.Entity("user", keys=["user_id"]), source=SOURCE, features=["value"])
BY_COUNTRY = ml.FeatureView(
    "by_country",
    entity=ml.Entity("country", keys=["country"]),
    source=SOURCE,
    features=[ml.Count(windows=[ml.days(1)])],
)


@dataclass
class Shop:
    platform: Any
    lake: Path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    platform = ml.connect(ml.Settings(lake=str(tmp_path), online="memory://layout"))
    write(tmp_path, rows(Random(1), 300))
    platform.apply(ml.FeatureService("s", features=[SPENDING, BY_COUNTRY.prefixed("c_")]))
    return Shop(platform, tmp_path)


def test_the_platform_lays_out_every_key_that_views_use(shop: Shop) -> None:
    done = shop.platform.layout("events")
    assert [one.keys for one in done] == [("user_id",), ("country",)]
    assert all(one.files == one.buckets == 1 and one.rows > 100 and one.bytes > 1000 for one in done)


@pytest.mark.parametrize("entity", ["country", ml.Entity("country", keys=["country"])])
def test_or_the_key_that_is_asked_for(shop: Shop, entity: Any) -> None:
    assert [one.keys for one in shop.platform.layout(SOURCE, entity=entity)] == [("country",)]


def test_an_unknown_entity_is_named_and_a_source_without_views_asks_for_one(shop: Shop) -> None:
    with pytest.raises(UnknownName, match="did you mean 'country'"):
        shop.platform.layout("events", entity="county")
    with pytest.raises(DefinitionError, match="entity="):
        shop.platform.layout(ml.DeltaSource("other", path="events", timestamp="at"))
