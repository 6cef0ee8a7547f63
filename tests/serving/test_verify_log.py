"""What serving really used: late data is told from wrong vectors, for the service that a version pins."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from shop import HOUR, NOON, Shop, open_shop, purchases, row, service, spending, traffic

import mlray as ml
from mlray.features.types import INSTANT, instants
from mlray.ingest import ingest
from mlray.materialize import materialize
from mlray.online.retrieval import get_features
from mlray.online.store import open_store
from mlray.serving.prediction_log import PredictionLog, log_rows
from mlray.verify import Event, LogVerification, verify_log


def now() -> int:
    return time.time_ns() // 1000


@pytest.fixture
def own(ray_cluster: str, tmp_path: Path) -> Iterator[Shop]:  # noqa: ARG001  verify needs Ray
    """A shop that the test may change."""
    opened = open_shop(tmp_path)
    yield opened
    opened.store.close()


def serve(shop: Shop, request_id: str, at: datetime, **changed: Any) -> None:
    """Answers one row of user 1 and writes its log, as a server does; changed: cells of the vector as it is logged."""
    asked = pa.Table.from_pylist([typed(row())])
    q = instants(pa.array([at], INSTANT), "at")
    served = now()
    found = shop.predictor().predict(asked, q)
    vectors = found.vectors
    for name, value in changed.items():
        cell = pa.array([value], vectors.schema.field(name).type)
        vectors = vectors.set_column(vectors.column_names.index(name), name, cell)
    log = PredictionLog(f"{shop.lake}/predictions")
    log.add(shop.version, log_rows(request_id, served, shop.version, asked, q, vectors, found.scores))
    log.close()


def typed(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "joined": datetime.fromisoformat(one["joined"]), "born": datetime.fromisoformat(one["born"]).date()}


def bought(shop: Shop, amount: float, at: datetime) -> None:
    """A purchase of user 1 in the web, ingested now."""
    rows = pa.table({"user_id": [1], "channel": ["web"], "country": ["NL"], "amount": [amount],
                     "bought_at": pa.array([at], INSTANT)})
    ingest(shop.store, purchases, [spending, traffic], rows, shop.lake, now=now())


def verified(shop: Shop, rows: int = 100) -> LogVerification:
    platform = ml.connect(ml.Settings(lake=shop.lake, online=shop.online, artifacts=shop.artifacts))
    platform.registry = shop.registry
    [found] = platform.verify_log("fraud", rows)
    return found


def test_what_was_served_is_what_is_rebuilt(own: Shop) -> None:
    for number in range(5):
        serve(own, str(number), NOON + number * HOUR)
    found = verified(own)
    assert (found.model, found.rows, found.cells) == ("fraud/1", 5, 5 * len(service().names))
    assert (found.different, found.late, found.ok) == (0, 0, True)


def test_an_event_that_came_after_the_answer_is_late_not_wrong(own: Shop) -> None:
    #  bought_at   7:00 8:00 9:00   11:30 (ingested after the answer)   asked as of 12:00
    serve(own, "a", NOON)
    bought(own, 5.0, NOON - HOUR / 2)
    found = verified(own)
    late = {"country", "count_7d", "amount_mean_7d", "amount_sum_1d", "amount_vs_usual"}
    assert (found.different, found.late, found.ok) == (0, len(late), True)


def test_a_logged_vector_that_was_tampered_with_is_wrong(own: Shop) -> None:
    serve(own, "a", NOON)
    serve(own, "b", NOON, count_7d=4)
    found = verified(own)
    assert (found.different, found.late, found.ok) == (1, 0, False)
    [told] = found.differences
    assert (told.part, told.view, told.feature, told.key) == ("log", "spending", "count_7d", {"user_id": 1})
    assert (told.offline, told.online, told.event) == (3, 4, None)


def test_late_and_wrong_cells_of_one_row_are_told_apart(own: Shop) -> None:
    serve(own, "a", NOON, amount_mean_7d=1e9)
    bought(own, 5.0, NOON - HOUR / 2)
    found = verified(own)
    assert (found.different, found.late) == (1, 4)
    [told] = found.differences
    assert told.feature == "amount_mean_7d"
    assert told.event == Event("offline", us(NOON - HOUR / 2), None, None, {"country": "NL", "amount": 5.0})


def test_without_the_log_of_then_late_cannot_be_told_from_wrong(own: Shop) -> None:
    serve(own, "a", NOON)
    bought(own, 5.0, NOON - HOUR / 2)
    table = DeltaTable(f"{own.lake}/purchases")
    table.create_checkpoint()
    Path(own.lake, "purchases/_delta_log", f"{0:020}.json").unlink()
    found = verified(own)
    assert (found.different, found.late, found.ok) == (5, 0, False)
    assert "the log of its table begins with version 1" in found.skipped[0]


def test_rows_that_were_written_twice_count_once(own: Shop) -> None:
    serve(own, "a", NOON)
    serve(own, "a", NOON)
    assert verified(own).rows == 1


def test_some_rows_of_a_long_log_are_taken_evenly(own: Shop) -> None:
    for number in range(6):
        serve(own, str(number), NOON + number * HOUR)
    assert verified(own, rows=3).rows == 3


def test_a_version_is_verified_with_the_service_that_it_pins(own: Shop) -> None:
    serve(own, "a", NOON)
    platform = ml.connect(ml.Settings(lake=own.lake, online=own.online, artifacts=own.artifacts))
    platform.registry = own.registry
    platform.applied_diff(ml.FeatureService("fraud", features=[traffic]))
    [found] = platform.verify_log("fraud")
    assert (found.cells, found.ok) == (len(service().names), True)


def test_without_a_log_it_is_said_whose_is_missing(own: Shop) -> None:
    with pytest.raises(ml.MlrayError, match=r"no prediction log under .*/lake/predictions of these versions: fraud/1"):
        verified(own)


# A source that says when its rows became known


known = ml.DeltaSource("known", path="known", timestamp="at", known_at="known_at")
seen = ml.FeatureView("seen", entity=ml.Entity("user", keys=["user"]), source=known, features=[
    ml.Count(windows=[ml.days(1)]),
])
counted = ml.FeatureService("counted", features=[seen])


def served_before(event_known_at: int, served: int, q: int, folder: Path, shop: Shop) -> LogVerification:
    """One answer at `served` as of `q` over one old event; then another event, of an hour before q, is written."""
    store, lake = open_store(f"memory://{folder}"), str(folder / "lake")
    ingest(store, known, [seen], event(q - 2 * 3_600_000_000, q - 2 * 3_600_000_000), lake, now=now())
    list(materialize(store, counted, lake, until=q))
    at = instants(pa.array([q], INSTANT), "q")
    asked = pa.table({"user": [7]})
    vectors = get_features(store, counted, asked, at)
    version = replace(shop.version, name="counter", service="counted")
    log = PredictionLog(f"{lake}/predictions")
    log.add(version, log_rows("a", served, version, asked, at, vectors, np.zeros(1)))
    log.close()
    ingest(store, known, [seen], event(q - 3_600_000_000, event_known_at), lake, now=now())
    return verify_log("counter/1", counted, f"{lake}/predictions/counter/1", lake, rows=10)


def event(at: int, known_at: int) -> pa.Table:
    return pa.table({"user": [7], "at": pa.array([at], INSTANT), "known_at": pa.array([known_at], INSTANT)})


def us(moment: datetime) -> int:
    return pc.cast(pa.scalar(moment, INSTANT), pa.int64()).as_py()


MINUTE = 60_000_000


@pytest.mark.parametrize(
    ("known_at", "counts"),
    #  served at 12:00 as of 13:00; the event says that it was known at
    [
        (90, (0, 0)),  # 13:30: no answer as of 13:00 may see it
        (30, (0, 1)),  # 12:30: the answer as of 13:00 sees it, the one given at 12:00 could not
        (-30, (1, 0)),  # 11:30: it should have been there
    ],
)
def test_known_at_says_what_could_be_known(
    known_at: int, counts: tuple[int, int], own: Shop, tmp_path: Path
) -> None:
    noon = us(NOON)
    found = served_before(noon + known_at * MINUTE, noon, noon + 60 * MINUTE, tmp_path / "known", own)
    assert (found.different, found.late) == counts
