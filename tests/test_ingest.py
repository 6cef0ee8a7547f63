"""Delta first, then online: what happens between the two, and beside them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import mlray as ml
from mlray.features import rows as rows_module
from mlray.offline import delta
from mlray.online import state

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

user = ml.Entity("user", keys=["user_id"])
payments = ml.DeltaSource("payments", path="payments", timestamp="at")
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid])


def rows(*amounts: int, at: datetime = NOON) -> pa.Table:
    return pa.table({"user_id": [7] * len(amounts), "at": [at] * len(amounts), "amount": list(amounts)})


@pytest.fixture
def platform(tmp_path: Path) -> ml.Platform:
    """A lake with one payment of 1 at noon, loaded until noon."""
    platform = ml.connect(ml.Settings(lake=tmp_path, online=f"memory://{tmp_path}"))
    platform.apply(service)
    platform.ingest("payments", rows(1))
    platform.materialize(service, until=NOON)
    return platform


def total(platform: ml.Platform, at: datetime) -> dict[str, Any]:
    answer = platform.get_features(service, [{"user_id": 7}], at=at, status=True)
    found: dict[str, Any] = answer.select(["amount_sum_lifetime", "paid__status"]).to_pylist()[0]
    return found


def table(platform: ml.Platform) -> str:
    return f"{platform.settings.lake}/payments"


def test_a_batch_with_a_key_counts_once(platform: ml.Platform) -> None:
    first = platform.ingest("payments", rows(10, at=NOON + HOUR), idempotency_key="a")
    again = platform.ingest("payments", rows(10, at=NOON + HOUR), idempotency_key="a")
    assert (first.rows, again.rows, again.version) == (1, 0, None)
    assert total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"] == 11


def test_two_equal_rows_without_sequence_are_two_events(platform: ml.Platform) -> None:
    platform.ingest("payments", rows(10, 10, at=NOON + HOUR))
    assert total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"] == 21


def test_a_commit_that_never_reached_the_online_store_is_pushed_before_the_next(platform: ml.Platform) -> None:
    delta.append(table(platform), rows(10, at=NOON + HOUR), "a process that died here")
    platform.ingest("payments", rows(100, at=NOON + HOUR))
    assert total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"] == 111


def test_compaction_between_two_batches_changes_no_answer(platform: ml.Platform) -> None:
    platform.ingest("payments", rows(10, at=NOON + HOUR))
    assert DeltaTable(table(platform)).optimize.compact()["numFilesRemoved"] == 2
    write_deltalake(table(platform), rows(100, at=NOON + HOUR), mode="append")
    platform.ingest("payments", rows(1000, at=NOON + 2 * HOUR))
    assert total(platform, NOON + 2 * HOUR) == {"amount_sum_lifetime": 111, "paid__status": "present"}


def test_after_rows_were_deleted_a_view_is_stale_until_it_is_loaded_again(platform: ml.Platform) -> None:
    DeltaTable(table(platform)).delete("amount = 1")
    platform.ingest("payments", rows(10, at=NOON + HOUR))
    assert total(platform, NOON + HOUR)["paid__status"] == "stale"
    platform.materialize(service, until=NOON + HOUR)
    assert total(platform, NOON + HOUR) == {"amount_sum_lifetime": None, "paid__status": "present"}


def test_known_at_is_stamped_once_per_call_the_same_on_both_sides(tmp_path: Path) -> None:
    known = ml.DeltaSource("known", path="known", timestamp="at", known_at="known_at")
    view = ml.FeatureView("view", entity=user, source=known, features=["known_at"])
    late = ml.FeatureService("late", features=[view])
    platform = ml.connect(ml.Settings(lake=tmp_path, online=f"memory://{tmp_path}"))
    platform.apply(late)
    platform.ingest("known", rows(1, 2))
    stored = DeltaTable(f"{tmp_path}/known").to_pyarrow_table()["known_at"].to_pylist()
    assert stored[0] == stored[1]
    assert platform.get_features(late, [{"user_id": 7}])["known_at"].to_pylist() == stored[:1]
    assert platform.get_features(late, [{"user_id": 7}], at=NOON)["known_at"].to_pylist() == [None]


def test_one_name_of_a_source_stands_for_one_table(platform: ml.Platform) -> None:
    other = ml.DeltaSource("payments", path="elsewhere", timestamp="at")
    view = ml.FeatureView("other", entity=user, source=other, features=["amount"])
    with pytest.raises(
        ml.MlrayError, match=r"path='elsewhere' here, but path='payments' in the applied service service"
    ):
        platform.apply(ml.FeatureService("second", features=[view]))


def test_no_rows_add_nothing(platform: ml.Platform) -> None:
    assert platform.ingest("payments", []).version is None
    assert DeltaTable(table(platform)).version() == 0


def test_a_row_with_an_extra_or_missing_column_is_refused_whole(platform: ml.Platform) -> None:
    with pytest.raises(ml.MlrayError, match=r"column 'colour' is not in the table"):
        platform.ingest("payments", rows(1).append_column("colour", pa.array(["red"])))
    with pytest.raises(ml.MlrayError, match=r"'amount' is not in the rows"):
        platform.ingest("payments", rows(1).drop_columns(["amount"]))
    assert DeltaTable(table(platform)).version() == 0


def test_a_column_that_changed_its_type_wants_a_new_load_before_the_next_batch(platform: ml.Platform) -> None:
    platform.ingest("payments", rows(10, at=NOON + HOUR))
    retyped = DeltaTable(table(platform)).to_pyarrow_table()
    retyped = retyped.set_column(2, "amount", retyped["amount"].cast(pa.float64()))
    write_deltalake(table(platform), retyped, mode="overwrite", schema_mode="overwrite")
    with pytest.raises(ml.MlrayError, match=r"'amount' is double in the table now and was int64.*materialize"):
        platform.ingest("payments", rows(100, at=NOON + HOUR))
    platform.materialize(service, until=NOON)
    platform.ingest("payments", rows(100, at=NOON + HOUR))
    assert total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"] == 111.0


def test_a_load_that_asks_for_an_earlier_time_reaches_back_to_it(platform: ml.Platform) -> None:
    day = ml.FeatureView("day", entity=user, source=payments, features=[ml.Count(windows=[ml.days(1)])])
    recent = ml.FeatureService("recent", features=[day])
    platform.materialize(recent, until=NOON + 50 * 24 * HOUR)
    with pytest.raises(ml.MlrayError, match=r"answers exactly only from 2026-04-20"):
        platform.get_features(recent, [{"user_id": 7}], at=NOON + HOUR)
    platform.materialize(recent, until=NOON + HOUR)
    assert platform.get_features(recent, [{"user_id": 7}], at=NOON + HOUR)["count_1d"].to_pylist() == [1]


def test_batches_of_several_threads_are_all_there(platform: ml.Platform) -> None:
    def push(thread: int) -> int:
        made = [platform.ingest("payments", rows(1, at=NOON + HOUR), idempotency_key=f"{thread}-{i}") for i in range(5)]
        return sum(one.rows for one in made)

    with ThreadPoolExecutor(4) as threads:
        sent = sum(threads.map(push, range(4)))
    stored = DeltaTable(table(platform)).to_pyarrow_table().num_rows
    platform.ingest("payments", rows(1, at=NOON + HOUR))
    assert (stored, total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"]) == (sent + 1, sent + 2)


def test_while_a_load_goes_on_no_answer_is_given_that_it_may_have_trimmed(platform: ml.Platform) -> None:
    day = ml.FeatureView("day", entity=user, source=payments, features=[ml.Count(windows=[ml.days(1)])])
    recent = ml.FeatureService("recent", features=[day])
    platform.materialize(recent, until=NOON + HOUR)
    stopped = CutOff(platform.online, after=2)
    events = rows_module.events(day, pa.concat_tables([rows(1), rows(2, at=NOON + 50 * 24 * HOUR)]))
    with pytest.raises(Cut):
        state.load(stopped, day, events, version=1, until=_us(NOON + 50 * 24 * HOUR), history=0)
    with pytest.raises(ml.MlrayError, match=r"answers exactly only from 2026-04-20"):
        platform.get_features(recent, [{"user_id": 7}], at=NOON + HOUR)


class Cut(Exception):
    """Where a process died."""


class CutOff:
    """A real store whose process dies before its n-th write."""

    def __init__(self, store: Any, after: int) -> None:
        self.store, self.left = store, after

    def write(self, *arguments: Any, **named: Any) -> int:
        self.left -= 1
        if self.left < 0:
            raise Cut
        return int(self.store.write(*arguments, **named))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def _us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def test_a_view_that_was_changed_is_still_fed_as_it_was_for_the_models_that_read_it(platform: ml.Platform) -> None:
    changed = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Count(windows=[ml.lifetime])])
    platform.apply(ml.FeatureService("service", features=[changed]))
    platform.ingest("payments", rows(10, at=NOON + HOUR))
    assert total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"] == 11


def test_a_view_no_longer_in_force_that_the_rows_do_not_fit_goes_stale_and_stops_nobody(platform: ml.Platform) -> None:
    changed = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Count(windows=[ml.lifetime])])
    platform.apply(ml.FeatureService("service", features=[changed]))
    write_deltalake(table(platform), rows(1).drop_columns(["amount"]), mode="overwrite", schema_mode="overwrite")
    assert platform.ingest("payments", rows(10, at=NOON + HOUR).drop_columns(["amount"])).rows == 1
    assert total(platform, NOON + HOUR)["paid__status"] == "stale"


def test_a_batch_that_another_writer_lost_is_pushed_although_a_later_one_is_there(platform: ml.Platform) -> None:
    delta.append(table(platform), rows(10, at=NOON + HOUR), "a writer that died here")
    later = rows(100, at=NOON + HOUR)
    version = delta.append(table(platform), later, "a writer that lived")
    assert version == 2
    state.push(platform.online, paid, rows_module.events(paid, later), version=version, whole=False)
    platform.ingest("payments", rows(1000, at=NOON + HOUR))
    assert total(platform, NOON + 2 * HOUR)["amount_sum_lifetime"] == 1111
