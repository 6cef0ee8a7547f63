"""Whole trainings on a cluster: each starts and stops its workers, so there are few of them."""

import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data

from mlray.errors import ConfigError, DefinitionError, SchemaError, TrainingFailed
from mlray.training.launch import check_resources, choose_gpu, evaluation, outcome, train
from mlray.training.model import load_model
from mlray.training.run import Run
from tests.training.made import FEATURES, MadeSet, config, scores, table, trainer

pytestmark = pytest.mark.usefixtures("ray_cluster")

DATA = table(20_000)
EPOCHS = 10


def made(data: pa.Table, blocks: int = 3, **given: object) -> MadeSet:
    size = -(-data.num_rows // blocks)
    pieces = [data.slice(start, size) for start in range(0, data.num_rows, size)]
    return MadeSet(dataset=ray.data.from_arrow(pieces), schema=data.schema, **given)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(storage: Path) -> Run:
    return train(config(storage, run="undisturbed", epochs=EPOCHS, patience=None), made(DATA))


def starts(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "workers.jsonl").read_text().splitlines()]


def test_two_workers_learn_and_the_run_says_all_of_it(undisturbed: Run) -> None:
    run = undisturbed

    assert run.metrics["test_auc"] > 0.75
    assert (run.metrics["rows_train"], run.metrics["rows_validation"], run.metrics["rows_test"]) == (12000, 4000, 4000)
    assert [epoch["epoch"] for epoch in run.history] == list(range(1, EPOCHS + 1))
    assert (run.service, run.service_hash, run.sources, run.label) == ("shop", "00ff", {"shop": 4}, "bought")
    assert run.features == tuple(FEATURES)
    assert run.provenance["packages"]["torch"]
    assert json.loads(json.dumps(run.config))["epochs"] == EPOCHS
    assert load_model(run.checkpoint).predict(DATA.slice(16_000)).shape == (4000,)
    found = json.loads(Path(run.checkpoint, "gates.json").read_text())
    passed = {"passed": True, "value": run.metrics["test_auc"], "threshold": 0.5, "link": ""}
    assert (found["run"], found["gates"]) == ("undisturbed", {"evaluation": passed})


@pytest.mark.parametrize(("auc", "passed"), [(0.7, True), (0.69, False), (math.nan, False)])
def test_a_model_that_is_not_as_good_as_it_has_to_be_fails_its_gate(auc: float, passed: bool, tmp_path: Path) -> None:
    assert evaluation(auc, config(tmp_path, min_auc=0.7)).passed is passed


def test_a_killed_worker_and_other_blocks_change_no_bit(undisturbed: Run, storage: Path) -> None:
    #  workers    |1---2---3--X          killed by SIGKILL once epoch 2 is told
    #                          |4---...---10
    killed: list[int] = []

    def kill(metrics: Mapping[str, float]) -> None:
        if metrics["epoch"] == 2:
            pid = starts(storage / "killed")[0]["pids"][1]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    backwards = DATA.take(np.arange(DATA.num_rows)[::-1])
    settings = config(storage, run="killed", epochs=EPOCHS, patience=None)
    run = train(settings, made(backwards, blocks=11), on_epoch=kill)

    assert len(killed) == 1
    first, second = starts(storage / "killed")
    assert first["after_epoch"] == 0
    assert 2 <= second["after_epoch"] < EPOCHS
    assert scores(run.metrics) == scores(undisturbed.metrics)
    assert list(map(scores, run.history)) == list(map(scores, undisturbed.history))
    weights = [Path(r.checkpoint, "model.safetensors").read_bytes() for r in (run, undisturbed)]
    assert weights[0] == weights[1]


def test_what_would_fail_again_is_returned_by_the_worker_as_what_it_raises_is_tried_again(tmp_path: Path) -> None:
    diverging = trainer(config(tmp_path, run="diverging", learning_rate=1e30), DATA)
    assert "the loss is" in outcome(diverging)["error"]


@pytest.mark.usefixtures("undisturbed")
def test_a_run_of_that_name_with_other_settings_is_refused(storage: Path) -> None:
    with pytest.raises(ConfigError, match="was begun with other seed"):
        train(config(storage, run="undisturbed", seed=5), made(DATA))


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
        train(config(tmp_path), made(data))


def test_a_label_among_the_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="'bought' is among the features"):
        train(config(tmp_path), made(DATA, features=[*FEATURES, "bought"]))


def test_a_missing_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="no label; pass label="):
        train(config(tmp_path), made(DATA, label=None))


def test_a_label_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="'country' is string; make it a boolean"):
        train(config(tmp_path), made(DATA, label="country", features=["amount"]))


def test_an_ignored_feature_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"'amonut'.*did you mean 'amount'"):
        train(config(tmp_path, ignore=("amonut",)), made(DATA))


def test_a_cluster_that_cannot_hold_the_workers_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 workers of 2 CPUs need 4 .* has 2 .* cpus_per_worker=1.0"):
        check_resources(config(tmp_path, cpus_per_worker=2), {"CPU": 2.0})


def test_a_gpu_asked_for_where_there_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a GPU for each of 2 workers and the cluster has 0"):
        choose_gpu(config(tmp_path, device="cuda"), {"CPU": 2.0})
    assert not choose_gpu(config(tmp_path), {"CPU": 2.0})
    assert choose_gpu(config(tmp_path), {"CPU": 2.0, "GPU": 2.0})
