"""A training set becomes a Delta table whole or not at all, whoever is killed, fails, or writes beside."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import market
import pyarrow as pa
import pytest
from builder import Builder, started
from deltalake import DeltaTable, write_deltalake
from market import bits

import mlray as ml
from mlray.errors import Conflict, SchemaError
from mlray.offline.parquet import commit_new, write_file
from mlray.offline.training_set import TrainingSet
from mlray.offline.written import WrittenSet

PARTS = 8


@dataclass
class Shop:
    """The market's lake, its gate, and two processes that build; this process builds, too."""

    platform: ml.Platform
    gate: market.Gate
    builders: tuple[Builder, Builder]
    folder: Path

    def training_set(self, service: str = "market") -> TrainingSet:
        return self.platform.build_training_set(market.SERVICES[service], "spine", join="shuffle")

    def right(self, path: Path, service: str = "market") -> None:
        """At the path lies the table that an undisturbed build makes, and nothing beside."""
        table = DeltaTable(path)
        assert table.version() == 0
        assert bits(table.to_pyarrow_table()) == bits(self.training_set(service).to_arrow())
        assert strays(path) == set()


@pytest.fixture(scope="module")
def shop(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    lake = folder / "lake"
    platform = ml.connect(ml.Settings(lake=str(lake), online="memory://unused", ray=ray_cluster))
    with closing(market.Gate(folder)) as gate, started(ray_cluster, lake) as one, started(ray_cluster, lake) as two:
        market.write_lake(lake, folder, events=2_000, rows=1_000)
        yield Shop(platform, gate, (one, two), folder)
        gate.open()


@pytest.fixture(scope="module")
def killed(ray_cluster: str, shop: Shop) -> Path:
    """What a process left that was killed when all parts but two were written."""
    path = shop.folder / "killed"
    with started(ray_cluster, shop.folder / "lake") as builder:
        shop.gate.shut()
        builder.ask(spine="spine", join="shuffle", path=str(path))
        assert all(shop.gate.arrival() for _ in market.LATE_USERS)
        while builder.answer().get("parts", 0) < PARTS - 2:
            pass
    shop.gate.bypass()
    return path


def strays(path: Path) -> set[str]:
    """What lies in the table's folder, but for its files and its log."""
    return {str(file) for file in path.iterdir() if file.name != "_delta_log"} - set(DeltaTable(path).file_uris())


def test_what_a_killed_writer_left_is_no_table_and_the_same_build_goes_on_from_it(
    shop: Shop, killed: Path, tmp_path: Path
) -> None:
    assert not DeltaTable.is_deltatable(str(killed))
    path = Path(shutil.copytree(killed, tmp_path / "table"))
    before = {file: file.stat().st_mtime_ns for file in path.glob("*.parquet")}
    seen = []
    shop.training_set().write_delta(path, seen.append)
    assert [now.parts for now in seen] == [PARTS - 1, PARTS]
    assert seen[0].resumed > 0
    assert before.items() <= {file: file.stat().st_mtime_ns for file in path.glob("*.parquet")}.items()
    shop.right(path)


def test_a_part_whose_file_is_gone_is_written_again(shop: Shop, killed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(killed, tmp_path / "table"))
    next(path.glob("*.parquet")).unlink()
    shop.training_set().write_delta(path)
    shop.right(path)


def test_another_build_leaves_nothing_of_what_a_killed_one_left(shop: Shop, killed: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(killed, tmp_path / "table"))
    (path / f"{next(path.glob('*.parquet')).name}.{'0' * 32}").write_text("half a file")
    shop.training_set("other").write_delta(path)
    shop.right(path, "other")


@pytest.mark.parametrize("first", ["market", "other"])
def test_a_writer_that_is_overtaken_says_conflict_and_the_table_stays(first: str, shop: Shop, tmp_path: Path) -> None:
    path, (slow, _) = tmp_path / "table", shop.builders
    shop.gate.shut()
    slow.ask(spine="spine", join="shuffle", path=str(path))
    assert all(shop.gate.arrival() for _ in market.LATE_USERS)
    shop.gate.bypass()
    shop.training_set(first).write_delta(path)
    shop.gate.open()
    assert slow.outcome()["error"] == "Conflict"
    shop.right(path, first)


@pytest.mark.parametrize("second", ["market", "other"])
def test_of_two_that_write_at_once_one_wins(second: str, shop: Shop, tmp_path: Path) -> None:
    path, services = tmp_path / "table", ("market", second)
    shop.gate.shut()
    for builder, service in zip(shop.builders, services, strict=True):
        builder.ask(spine="spine", join="shuffle", path=str(path), service=service)
    assert all(shop.gate.arrival() for _ in (*market.LATE_USERS, *market.LATE_USERS))
    shop.gate.open()
    outcomes = [builder.outcome() for builder in shop.builders]
    assert sorted(outcome.get("error", "won") for outcome in outcomes) == ["Conflict", "won"]
    shop.right(path, services["error" in outcomes[0]])


def test_of_two_that_commit_at_once_one_wins(tmp_path: Path) -> None:
    rows = pa.table({"x": [1]})
    for attempt in range(20):
        root, together, lost = str(tmp_path / str(attempt)), Barrier(2), []

        def commit(name: str, root: str = root, together: Barrier = together, lost: list[str] = lost) -> None:
            action = write_file(root, name, rows, stats=[])
            together.wait()
            try:
                commit_new(root, rows.schema, [action])
            except Conflict:
                lost.append(name)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(commit, ["a.parquet", "b.parquet"]))
        assert (len(lost), DeltaTable(root).to_pyarrow_table()) == (1, rows)


def test_a_table_that_is_there_is_not_touched(shop: Shop, tmp_path: Path) -> None:
    write_deltalake(tmp_path, pa.table({"x": [1]}))
    with pytest.raises(Conflict, match="there is a Delta table at"):
        shop.training_set().write_delta(tmp_path)
    assert DeltaTable(tmp_path).to_pyarrow_table().to_pydict() == {"x": [1]}
    assert strays(tmp_path) == set()


def test_a_part_that_fails_fails_the_write_and_leaves_nothing(shop: Shop, tmp_path: Path) -> None:
    path, (builder, _) = tmp_path / "table", shop.builders
    shop.gate.shut()
    builder.ask(spine="spine", join="shuffle", path=str(path), service="broken")
    assert all(shop.gate.arrival() for _ in market.LATE_USERS)
    shop.gate.open()  # parts are still written when others have failed
    assert builder.outcome()["error"] == "TransformationFailed"
    assert not path.exists()


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
bills = ml.DeltaSource("bills", path="bills", timestamp="at")


def platform(lake: Path, address: str) -> ml.Platform:
    """A lake with bills of users 7 and 8, an hour before noon."""
    before = NOON - timedelta(hours=1)
    rows = {"user_id": [7, 7, 8], "at": [before] * 3, "cents": [2**62, 2**62, 1], "text": ["1", "x", "2"]}
    write_deltalake(str(lake / "bills"), pa.table(rows))
    return ml.connect(ml.Settings(lake=str(lake), online="memory://unused", ray=address))


def service(feature: Any) -> ml.FeatureService:
    view = ml.FeatureView("bills", entity=ml.Entity("user", keys=["user_id"]), source=bills, features=[feature])
    return ml.FeatureService("bills", features=[view])


def spine(**columns: Any) -> pa.Table:
    return pa.table({"user_id": [7, 8], "timestamp": [NOON, NOON], **columns})


@pytest.mark.parametrize("join", ["shuffle", "broadcast"])
@pytest.mark.parametrize(
    ("feature", "columns", "error"),
    [
        (ml.Sum("cents", windows=[ml.days(1)]), {}, "cents"),
        (ml.Count(windows=[ml.days(1)], where="CAST(text AS INT) > 0"), {}, "text"),
        (ml.Count(windows=[ml.days(1)]), {"seen": pa.array([1, 2], pa.timestamp("ns"))}, "does not fit"),
        (ml.Count(windows=[ml.days(1)]), {"id": pa.array([1, 2**63], pa.uint64())}, "does not fit"),
    ],
)
def test_a_write_that_fails_says_why_and_leaves_nothing(
    feature: Any, columns: dict[str, Any], error: str, join: Any, ray_cluster: str, tmp_path: Path
) -> None:
    asked = platform(tmp_path / "lake", ray_cluster)
    with pytest.raises(ml.MlrayError, match=error):
        asked.build_training_set(service(feature), spine(**columns), join=join).write_delta(tmp_path / "table")
    assert not (tmp_path / "table").exists()


COUNT = ml.Count(windows=[ml.days(1)])
COLUMNS = {
    "seen": (pa.array([1_000, None], pa.timestamp("ns", tz="Europe/Lisbon")), pa.timestamp("us", tz="UTC")),
    "id": (pa.array([2**63 - 1, None], pa.uint64()), pa.int64()),
    "small": (pa.array([255, 0], pa.uint8()), pa.int16()),
    "word": (pa.array(["a", None]).dictionary_encode(), pa.string()),
    "words": (pa.array([["a", None], None], pa.large_list(pa.large_string())), pa.list_(pa.string())),
    "nothing": (pa.nulls(2), pa.string()),
    "half": (pa.array([0.5, None], pa.float16()), pa.float32()),
}


@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("join", ["shuffle", "broadcast"])
def test_columns_of_other_types_are_kept_in_those_that_delta_has(
    join: Any, size: int, ray_cluster: str, tmp_path: Path
) -> None:
    asked = spine(**{name: given for name, (given, _) in COLUMNS.items()}).slice(0, size)
    ts = platform(tmp_path / "lake", ray_cluster).build_training_set(service(COUNT), asked, join=join)
    assert ts.write_delta(tmp_path / "table") == size
    table = DeltaTable(tmp_path / "table").to_pyarrow_table().sort_by("user_id")
    assert table.select(list(COLUMNS)) == pa.table({n: c.cast(kind) for n, (c, kind) in COLUMNS.items()}).slice(0, size)
    assert table["count_1d"].to_pylist() == [2, 1][:size]
    read = WrittenSet.read(tmp_path / "table")
    blocks = [block for block in read.dataset.iter_batches(batch_format="pyarrow", batch_size=None) if len(block)]
    back = pa.concat_tables([read.schema.empty_table(), *blocks])
    assert back.sort_by("user_id").equals(ts.to_arrow().sort_by("user_id"))


@pytest.mark.parametrize("where", ["file://{}/table", "table", "../{}/table"])
def test_a_path_may_be_relative_or_a_url(
    where: str, ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = platform(tmp_path / "lake", ray_cluster)
    path = where.format(tmp_path if "//" in where else tmp_path.name)
    asked.build_training_set(service(COUNT), spine()).write_delta(path)
    assert DeltaTable(tmp_path / "table").to_pyarrow_table()["count_1d"].to_pylist() == [2, 1]


@pytest.mark.parametrize("size", [0, 2])
def test_what_is_cached_is_written_without_computing_it_again(size: int, ray_cluster: str, tmp_path: Path) -> None:
    asked = platform(tmp_path / "lake", ray_cluster)
    ts = asked.build_training_set(service(COUNT), spine().slice(0, size), join="shuffle").cached()
    shutil.rmtree(tmp_path / "lake")
    assert ts.write_delta(tmp_path / "table") == size
    assert sorted(DeltaTable(tmp_path / "table").to_pyarrow_table()["count_1d"].to_pylist()) == [1, 2][:size]


def test_a_written_training_set_is_read_as_it_was_told(shop: Shop, tmp_path: Path) -> None:
    ts = shop.platform.build_training_set(market.SERVICES["market"], "spine", label="country")
    ts.write_delta(tmp_path / "set")

    read = WrittenSet.read(tmp_path / "set")

    assert read.schema.equals(ts.schema)
    for name in ("features", "label", "timestamp", "sources", "fingerprint", "service_hash", "recorded"):
        assert getattr(read, name) == getattr(ts, name)
    found = pa.concat_tables(read.dataset.iter_batches(batch_format="pyarrow", batch_size=None))
    assert bits(found) == bits(ts.to_arrow())


def test_a_table_that_is_no_training_set_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "other", pa.table({"a": [1]}))
    with pytest.raises(SchemaError, match="was not written by `write_delta`"):
        WrittenSet.read(tmp_path / "other")
