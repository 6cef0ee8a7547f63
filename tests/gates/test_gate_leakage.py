"""The gate `leakage`: what one feature, or what an hour changed in it, tells of the label."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

import mlray as ml
from mlray import days
from mlray.errors import DefinitionError
from mlray.gates import leakage
from mlray.gates.association import strength
from mlray.gates.settings import Leakage
from mlray.training.evaluate import auc
from mlray.training.task import Task

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(1000) < 0.3).astype(np.float64)


def told(values: Any, labels: np.ndarray = LABELS) -> float:
    return strength(labels, pa.chunked_array([pa.array(values)]), Task())


def test_a_number_tells_by_its_auc_in_whichever_direction() -> None:
    scores = LABELS + RANDOM.normal(0, 1, 1000)
    assert told(scores) == told(-scores) == auc(LABELS, scores)
    assert told(np.full(1000, 7.0)) == 0.5


def test_that_a_value_is_missing_tells_too() -> None:
    assert told([None if label else 1.0 for label in LABELS]) == 1.0
    assert told([None if label else "JFK" for label in LABELS]) == 1.0


def test_a_text_tells_by_the_other_half_of_the_rows_so_a_name_of_every_row_tells_nothing() -> None:
    assert np.isnan(told([f"customer {i}" for i in range(1000)]))
    assert told(np.where(LABELS > 0, "returned", "kept")) == 1.0
    assert told(RANDOM.choice(["a", "b", "c"], 1000)) < 0.6


def test_of_several_classes_the_one_that_is_told_best_counts_and_of_a_number_its_rank() -> None:
    classes = np.random.default_rng(4).integers(0, 3, 1000).astype(np.float64)
    several = Task(kind="multiclass", classes=("a", "b", "c"))
    assert strength(classes, pa.chunked_array([pa.array(classes == 1)]), several) == 1.0
    values = RANDOM.normal(0, 1, 1000)
    assert strength(values, pa.chunked_array([pa.array(-np.exp(values))]), Task(kind="regression")) == 1.0


def test_of_few_values_nothing_is_concluded() -> None:
    assert np.isnan(told([1.0] * 20 + [0.0] * 5, LABELS[:25]))


# What the tables say. Every user is asked about at noon; the label is whether the user goes at 12:30.
#
#                   11:00        11:30        12:00 = q     12:30        13:00
#   visits            |            v            |                           honest: by chance, whatever comes
#   goodbyes          |                         |             g             honest: stamped when the user goes
#   early             |            e            |                           leaks: stamped an hour before it happened

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
USERS = 400
GOES = (np.random.default_rng(1).random(USERS) < 0.4).astype(np.int64)



@pytest.fixture(scope="module")
def result(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ARG001
    lake, gone = str(tmp_path_factory.mktemp("lake")), np.flatnonzero(GOES)
    some = np.random.default_rng(2).choice(USERS, 200)
    for name, users, at in (("visits", some, -30), ("goodbyes", gone, 30), ("early", gone, -30)):
        rows = {"user_id": users, "at": [NOON + timedelta(minutes=at)] * len(users)}
        history = {"user_id": np.arange(USERS), "at": [NOON - days(3)] * USERS}
        for table in (rows, history):
            write_deltalake(f"{lake}/{name}", pa.table(table), mode="append")
    user = ml.Entity("user", keys=["user_id"])
    views = [
        ml.FeatureView(name, entity=user, source=ml.DeltaSource(name, path=name, timestamp="at"), features=[
            ml.Count(windows=[days(7)]),
        ]).prefixed(f"{name}_")
        for name in ("visits", "goodbyes", "early")
    ]
    asked = ml.RequestSource("asked", schema={"age": int})
    service = ml.FeatureService("churn", features=[*views, asked])
    spine = pa.table({
        "user_id": np.arange(USERS), "timestamp": [NOON] * USERS, "age": np.arange(USERS) % 50, "goes": GOES,
    })
    ts = ml.connect(ml.Settings(lake=lake)).build_training_set(service, spine, label="goes")
    later = pa.table({"user_id": gone, "at": [NOON - timedelta(minutes=30)] * len(gone)})
    write_deltalake(f"{lake}/visits", later, mode="append")  # which this training set is not of
    return leakage.examine(ts, "binary", Leakage())


def test_an_event_stamped_before_it_was_known_fails_the_gate_and_is_named(result: Any) -> None:
    assert not result.passed
    assert [text.split(" tells")[0] for text in result.problems] == [
        "early_count_7d alone",
        "what the hour before the asked instant changed in early_count_7d",
    ]


def test_an_honest_event_just_after_the_instant_is_told_and_fails_nothing(result: Any) -> None:
    honest = result.details["features"]["goodbyes_count_7d"]
    assert (honest["at"], honest["until"], honest["after"]) == (0.5, 0.5, 1.0)
    assert result.notes == (
        "what the hour after the asked instant changed in goodbyes_count_7d tells the label with 1.0000: a row stamped "
        "an hour early, or late known rows without known_at, would leak it",
    )


def test_what_the_hour_after_tells_fails_the_gate_where_that_is_asked_for(result: Any) -> None:
    [told] = set(leakage.too_well(result.details["features"], Leakage(max_after=0.95))) - set(result.problems)
    assert told.startswith("what the hour after the asked instant changed in goodbyes_count_7d tells the label with 1")
    assert told.endswith("allowed is less than 0.95")


def test_what_does_not_change_and_what_changes_by_chance_tells_nothing(result: Any) -> None:
    assert result.details["features"]["visits_count_7d"]["until"] < 0.6
    assert result.details["features"]["age"]["after"] == 0.5


def test_the_label_under_another_name_is_refused() -> None:
    rows = pa.table({"goes": GOES, "stays": 1 - GOES, "age": np.arange(USERS)})
    with pytest.raises(DefinitionError, match="feature 'stays' equals the label 'goes' in all 400 rows of a sample"):
        leakage.refuse_the_label(rows, ["age", "stays"], "goes", GOES.astype(np.float64), Task())


def test_a_label_of_text_is_found_among_texts_too() -> None:
    ends = np.where(GOES > 0, "returned", np.where(np.arange(USERS) % 2, "kept", "sold"))
    rows = pa.table({"ends": ends, "state": pa.array(ends).dictionary_encode(), "other": ends[::-1]})
    task = Task(kind="multiclass", classes=("kept", "returned", "sold"))
    labels = np.asarray(task.encode(rows.column("ends")), np.float64)
    leakage.refuse_the_label(rows, ["other"], "ends", labels, task)
    with pytest.raises(DefinitionError, match="feature 'state' equals the label 'ends'"):
        leakage.refuse_the_label(rows, ["other", "state"], "ends", labels, task)


def test_a_sample_of_which_nothing_can_be_concluded_is_no_pass() -> None:
    rare, values = (np.arange(400) < 12).astype(np.float64), RANDOM.random(400)
    found = {"age": {"at": told(values, rare)}}
    assert list(leakage.inconclusive(found, 400)) == [
        "a sample of 400 rows says nothing of any feature: 30 of each label are needed, with the value; raise `rows`"
    ]
    assert list(leakage.inconclusive(found | {"size": {"at": 0.5}}, 400)) == []


def test_a_sample_is_the_same_for_any_blocks() -> None:
    block = pa.table({"goes": GOES, "row": np.arange(USERS)})
    whole = leakage.taken(block, 0, 0.3, "goes")
    halves = [leakage.taken(block.slice(i, 200), i, 0.3, "goes") for i in (0, 200)]
    assert whole.equals(pa.concat_tables(halves).combine_chunks())
    assert 80 < whole.num_rows < 160
