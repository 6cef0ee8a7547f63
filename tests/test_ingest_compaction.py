"""Small files folded into few: the same rows, for whoever reads now, read before, or writes meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import mlray as ml
from mlray.errors import Conflict
from mlray.offline import delta
from mlray.offline.appends import Appender, Batch
from mlray.offline.compaction import compact
from mlray.online import state
from mlray.writer.writer import Writer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)

user = ml.Entity("user", keys=["user_id"])
payments = ml.DeltaSource("payments", path="payments", timestamp="at")
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid])


def rows(*amounts: int) -> pa.Table:
    return pa.table({"user_id": [7] * len(amounts), "at": [NOON] * len(amounts), "amount": list(amounts)})


@pytest.fixture
def platform(tmp_path: Path) -> ml.Platform:
    """A lake with payments of 0 to 9, in ten files, loaded."""
    platform = ml.connect(ml.Settings(lake=tmp_path))
    platform.apply(service)
    for amount in range(10):
        platform.ingest("payments", rows(amount))
    platform.materialize(service, until=NOON)
    return platform


def table(platform: ml.Platform, version: int | None = None) -> DeltaTable:
    return DeltaTable(f"{platform.settings.lake}/payments", version=version)


def amounts(platform: ml.Platform, version: int | None = None) -> list[int]:
    found: list[int] = sorted(table(platform, version).to_pyarrow_table()["amount"].to_pylist())
    return found


def online(platform: ml.Platform) -> tuple[Any, bool]:
    """The sum, and whether the view lacks something that only a load can bring."""
    answer = platform.get_features(service, [{"user_id": 7}], at=LATER)
    return answer["amount_sum_lifetime"].to_pylist()[0], state.state_of(platform.online, paid).gap


def test_ten_files_become_one_and_every_version_has_its_rows(platform: ml.Platform) -> None:
    done = platform.compact("payments")
    assert (done.version, done.removed, done.added, done.rows) == (10, 10, 1, 10)
    assert (len(table(platform).file_uris()), amounts(platform), amounts(platform, 4)) == (1, [*range(10)], [*range(5)])
    assert platform.compact("payments").version is None


def test_it_is_no_news_to_the_online_views(platform: ml.Platform) -> None:
    platform.compact("payments")
    assert delta.commit(table(platform).table_uri, 10, ["amount"]).num_rows == 0  # type: ignore[union-attr]
    platform.ingest("payments", rows(100))
    assert online(platform) == (145, False)


def test_a_vacuum_takes_the_folded_files_but_those_of_versions_that_it_is_to_keep(platform: ml.Platform) -> None:
    platform.compact("payments")
    table(platform).vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False, keep_versions=[4], full=True
    )
    assert (amounts(platform), amounts(platform, 4)) == ([*range(10)], [*range(5)])
    with pytest.raises(FileNotFoundError):
        amounts(platform, 8)
    platform.ingest("payments", rows(100))
    assert online(platform) == (145, False)


def test_a_commit_that_was_not_pushed_before_a_fold_is_pushed_after_it(platform: ml.Platform) -> None:
    delta.append(f"{platform.settings.lake}/payments", rows(1000), "a process that died here")
    platform.compact("payments")
    ml.connect(platform.settings).ingest("payments", rows(100))
    assert online(platform) == (1145, False)


def test_appends_go_on_while_files_are_folded_and_no_row_is_lost_or_doubled(platform: ml.Platform) -> None:
    path = f"{platform.settings.lake}/payments"

    def append(amount: int) -> None:
        Appender(path, "appender").append([Batch(rows(amount))])

    def fold(_: int) -> int:
        try:
            return compact(path, "payments").removed
        except Conflict:
            return 0

    with ThreadPoolExecutor(6) as threads:
        appended = threads.map(append, range(10, 40))
        folded = list(threads.map(fold, range(4)))
        assert len(list(appended)) == 30
    assert (max(folded) >= 10, amounts(platform)) == (True, [*range(40)])


def test_folding_at_once_in_two_places_folds_once(platform: ml.Platform) -> None:
    path = f"{platform.settings.lake}/payments"

    class MeanwhileFolded:
        """Another process folds between the reading of this one and its commit."""

        def __enter__(self) -> None:
            if table(platform).version() == 9:
                compact(path, "payments")

        def __exit__(self, *_: object) -> None: ...

    with pytest.raises(Conflict, match="others keep changing the table or fold the same files"):
        compact(path, "payments", turn=MeanwhileFolded())
    assert (amounts(platform), len(list(Path(path).glob("*folded*")))) == ([*range(10)], 1)


def test_a_writer_folds_the_tables_that_mlray_made_and_leaves_others_alone(platform: ml.Platform) -> None:
    foreign = ml.DeltaSource("foreign", path="foreign", timestamp="at")
    write_deltalake(f"{platform.settings.lake}/foreign", rows(1))
    writer = Writer(platform.settings.lake, platform.online, clock=lambda: 2**60, fold=4)
    for source in (payments, foreign):
        for amount in range(100, 105):
            writer.ingest(source, rows(amount))
    writer.stop()
    assert len(table(platform).file_uris()) < 5
    assert amounts(platform) == [*range(10), *range(100, 105)]
    assert len(DeltaTable(f"{platform.settings.lake}/foreign").file_uris()) == 6


@pytest.mark.usefixtures("ray_cluster")
def test_a_managed_layout_is_topped_up_over_a_fold_and_a_training_set_pins_the_version_before_it(
    platform: ml.Platform,
) -> None:
    [before] = platform.layout("payments", user)
    platform.compact("payments")
    platform.ingest("payments", rows(100))
    [after] = platform.layout("payments", user)
    assert (before.rows, after.rows, after.version) == (10, 11, 11)
    spine = [{"user_id": 7, "timestamp": LATER}]
    sums = [
        platform.build_training_set(service, spine, versions={"payments": version}).to_arrow()["amount_sum_lifetime"]
        for version in (9, 11)
    ]
    assert [one.to_pylist() for one in sums] == [[45], [145]]
