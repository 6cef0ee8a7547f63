"""Whole trainings on a cluster: each starts and stops its workers, so there are few of them."""

import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pytest

from mlray.errors import ConfigError, DefinitionError, SchemaError, TrainingFailed
from mlray.offline.content import content_digest
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import Registry
from mlray.retrain import retrain
from mlray.training.config import Resources
from mlray.training.launch import evaluation, train
from mlray.training.model import load_model
from mlray.training.run import Run
from mlray.training.task import Task
from mlray.training.workers import check_room, choose_gpu
from tests.training.made import EPOCHS, FEATURES, PLAIN, config, in_blocks, table

pytestmark = pytest.mark.usefixtures("ray_cluster")

DATA = table(20_000)


def test_two_workers_learn_and_the_run_says_all_of_it(undisturbed: Run) -> None:
    run = undisturbed

    assert run.metrics["test_auc"] > 0.75
    assert (run.metrics["rows_train"], run.metrics["rows_validation"], run.metrics["rows_test"]) == (12000, 4000, 4000)
    assert [epoch["epoch"] for epoch in run.history] == list(range(1, EPOCHS + 1))
    assert (run.service, run.service_hash, run.sources, run.label) == ("shop", "00ff", {"shop": 4}, "bought")
    assert run.features == tuple(FEATURES)
    assert run.provenance["packages"]["torch"]
    assert run.provenance["content"] == content_digest(in_blocks(DATA).dataset, [*FEATURES, "bought"])[0]
    assert json.loads(json.dumps(run.config))["epochs"] == EPOCHS
    assert load_model(run.checkpoint).predict(DATA.slice(16_000)).shape == (4000,)
    found = json.loads(Path(run.checkpoint, "gates.json").read_text())
    passed = {"passed": True, "value": run.metrics["test_auc"], "threshold": 0.5, "link": "", "stop": False}
    assert (found["run"], found["gates"]) == ("undisturbed", {"evaluation": passed})


@pytest.mark.parametrize(("auc", "passed"), [(0.7, True), (0.69, False), (math.nan, False)])
def test_a_model_that_is_not_as_good_as_it_has_to_be_fails_its_gate(auc: float, passed: bool) -> None:
    assert evaluation({"test_auc": auc}, Task(), min_auc=0.7).passed is passed


def test_without_workers_the_loop_runs_in_this_process(tmp_path: Path) -> None:
    run = train(config(tmp_path, run="here", workers=0), in_blocks(DATA))
    assert json.loads((tmp_path / "here" / "workers.jsonl").read_text())["pids"] == [os.getpid()]
    assert run.metrics["test_auc"] > 0.75


def test_a_version_trained_again_has_the_weights_that_were_registered(tmp_path: Path) -> None:
    small = config(tmp_path, run="first", workers=0, class_weights="balanced", steps=5)
    registry = Registry.connect(f"sqlite:///{tmp_path}/registry.db", f"{tmp_path}/artifacts", embedded=True)
    version = registry.register("shop", train(small, in_blocks(DATA)))

    again = retrain(version, in_blocks(DATA, blocks=5), ArtifactStore(f"{tmp_path}/artifacts"), tmp_path)
    other = retrain(version, in_blocks(DATA.slice(1)), ArtifactStore(f"{tmp_path}/artifacts"), tmp_path / "o")

    assert (again.same, again.largest_difference) == (True, 0.0)
    assert (other.same, other.largest_difference > 0) == (False, True)


def test_what_would_fail_again_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"the (loss|norm of the gradient) is"):
        train(config(tmp_path, run="diverging", learning_rate=1e30, workers=1), in_blocks(DATA))
    assert len((tmp_path / "diverging" / "workers.jsonl").read_text().splitlines()) == 1


@pytest.mark.usefixtures("undisturbed")
def test_a_run_of_that_name_with_other_settings_is_refused(storage: Path) -> None:
    with pytest.raises(ConfigError, match="was begun with other seed"):
        train(config(storage, run="undisturbed", seed=5, **PLAIN), in_blocks(DATA))


@pytest.mark.parametrize(("change", "message"), [
    ({"bought": [None] * 100 + [0, 1] * 200}, "'bought' is null in 100 of 500 rows"),
    ({"bought": [1] * 500}, "'bought' is 1 in all 300 rows of the train part"),
    ({"bought": [0, 1, 2, 3, 4] * 100}, "must be 0 or 1 .* has 2.0, 3.0, 4.0"),
    ({"at": DATA["at"].slice(0, 500).combine_chunks()}, "no row lies in the validation part .* move the split"),
])
def test_data_to_learn_nothing_from_is_refused(
    tmp_path: Path, change: dict[str, list[object]], message: str
) -> None:
    data = table(500)
    for name, values in change.items():
        data = data.set_column(data.schema.names.index(name), name, pa.array(values))
    with pytest.raises(TrainingFailed, match=message):
        train(config(tmp_path), in_blocks(data))


def test_a_label_among_the_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="'bought' is among the features"):
        train(config(tmp_path), in_blocks(DATA, features=[*FEATURES, "bought"]))


def test_a_missing_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="no label; pass label="):
        train(config(tmp_path), in_blocks(DATA, label=None))


def test_a_label_of_text_is_no_label_of_a_binary_task(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="'country' is string, which is no label of a binary task; make it a boolean"):
        train(config(tmp_path, task="binary"), in_blocks(DATA, label="country", features=["amount"]))


def test_an_ignored_feature_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"'amonut'.*did you mean 'amount'"):
        train(config(tmp_path, ignore=("amonut",)), in_blocks(DATA))


@pytest.mark.parametrize(("weights", "message"), [
    ([None, -1.0, math.inf, 1.0] * 125, "weight 'w' is negative, infinite or null in 225 of 300 training rows"),
    ([0.0] * 500, "above 0 in 0; a weight is a finite number"),
])
def test_weights_that_are_none_are_refused(tmp_path: Path, weights: list[float], message: str) -> None:
    data = table(500).append_column("w", pa.array(weights))
    with pytest.raises(TrainingFailed, match=message):
        train(config(tmp_path, weight="w"), in_blocks(data))


def test_a_weight_that_is_a_feature_or_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="weight 'amount' is a feature or the label"):
        train(config(tmp_path, weight="amount"), in_blocks(DATA))
    with pytest.raises(SchemaError, match="weight 'country' is string; it must be a number"):
        train(config(tmp_path, weight="country", ignore=("country",)), in_blocks(DATA))


@pytest.mark.parametrize(("resources", "message"), [
    ({"cpus_per_worker": 2}, r"2 workers of 2 CPUs hold 4, .* needs 1 beside them .* has 2; pass cpus_per_worker=0.5"),
    ({"cpus_per_worker": 1}, r"hold 2, .* has 2; pass cpus_per_worker=0.5, lower workers, or start Ray with more"),
    ({"workers": (3, 8)}, r"3 workers of 0.5 CPUs hold 1.5, .* has 2; pass cpus_per_worker=0.3"),
])
def test_workers_that_leave_their_data_no_room_are_refused(resources: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_room(Resources(**resources), {"CPU": 2.0})
    check_room(Resources(), {"CPU": 2.0})


def test_a_gpu_asked_for_where_there_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a GPU for each of 2 workers and the cluster has 0"):
        choose_gpu(Resources(device="cuda"), {"CPU": 2.0})
    assert not choose_gpu(Resources(), {"CPU": 2.0})
    assert not choose_gpu(Resources(device="cpu"), {"CPU": 2.0, "GPU": 2.0})
    assert choose_gpu(Resources(), {"CPU": 2.0, "GPU": 2.0})
    assert choose_gpu(Resources(workers=(1, 4), device="cuda"), {"GPU": 2.0})  # and not on CPUs without a word
