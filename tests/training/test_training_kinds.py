"""Trees and estimators on a cluster: trained as networks are, the same again from the same seed, whatever is killed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlray.errors import ConfigError, TrainingFailed
from mlray.training import sklearn_trainer
from mlray.training.kinds import config_of, train
from mlray.training.model import load_model
from mlray.training.sklearn_trainer import SklearnTrainer
from mlray.training.trainer import Trainer
from mlray.training.xgboost_trainer import XGBoostTrainer
from tests.soak import rounds
from tests.training.made import SPLIT, in_blocks, table
from tests.training.test_kills import killing, starts

DATA = table(6_000)
TREES = {"subsample": 0.8, "colsample_bytree": 0.7, "max_depth": 3}
FOREST = "sklearn.ensemble:RandomForestClassifier"


def trees(storage: Path, run: str, **settings: Any) -> XGBoostTrainer.Config:
    small = {"rounds": 25, "checkpoint_rounds": 5, "patience": None, "arguments": TREES, "one_hot": True}
    return XGBoostTrainer.Config(**{"split": SPLIT, "storage": str(storage), "run": run, **small, **settings})


def forest(storage: Path, **settings: Any) -> SklearnTrainer.Config:
    few = {"model": FOREST, "arguments": {"n_estimators": 20, "min_samples_leaf": 5}}
    return SklearnTrainer.Config(**{"split": SPLIT, "storage": str(storage), **few, **settings})


@pytest.mark.parametrize("seed", range(rounds(1, 20)))
def test_trees_learn_on_two_workers_also_where_one_or_the_controller_is_killed(
    ray_cluster: str, storage: Path, seed: int  # noqa: ARG001
) -> None:
    #  rounds     |1---5---10-X            killed by SIGKILL once round 10 is on the disk
    #                      |11---...---150
    victim = ("a worker", "the controller")[seed % 2]  # in `make test` a worker; test_workers.py has a controller, too
    path = storage / f"grown-{seed}"
    with killing(path, None, [f"{victim} between rounds"], [10]):
        run = train(trees(storage, path.name, rounds=150), in_blocks(DATA))

    assert [worker["after_round"] > 0 for worker in starts(path)] == [False, False, True, True]
    assert sorted(worker["rank"] for worker in starts(path)) == [0, 0, 1, 1]
    assert run.metrics["test_auc"] > 0.75
    assert run.metrics["rounds"] == len(run.history) == 150
    assert run.history[0].keys() == {"round", "validation_log_loss"}
    assert load_model(run.checkpoint).predict(DATA.slice(5_000)).shape == (1000,)
    assert json.loads(Path(run.checkpoint, "gates.json").read_text())["gates"]["evaluation"]["passed"]


def test_an_estimator_is_fitted_and_scored_by_tasks(ray_cluster: str, storage: Path) -> None:  # noqa: ARG001
    runs = [train(forest(storage, run=run, class_weights="balanced"), in_blocks(DATA, blocks)) for run, blocks in
            (("forest", 3), ("again", 1))]
    first, again = (load_model(run.checkpoint).predict(DATA) for run in runs)
    assert runs[0].metrics["test_auc"] > 0.75
    np.testing.assert_array_equal(first, again)


def test_several_classes_and_values_go_the_same_way(ray_cluster: str, storage: Path) -> None:  # noqa: ARG001
    classes = replace(in_blocks(DATA), label="country", features=["amount", "rate"])
    filled = DATA.set_column(6, "country", DATA["country"].fill_null("DE"))
    classes = replace(in_blocks(filled), label="country", features=["amount", "rate"])
    run = train(forest(storage, run="classes"), classes)
    assert load_model(run.checkpoint).task.classes == ("DE", "FR", "PT")
    assert {"test_macro_f1", "validation_log_loss"} <= run.metrics.keys()

    values = replace(in_blocks(DATA), label="amount", features=["visits", "country"])
    run = train(forest(storage, run="values", model="sklearn.linear_model:Ridge", arguments={}), values)
    assert (load_model(run.checkpoint).task.kind, run.metrics["test_rmse"] > 0) == ("regression", True)


def test_more_rows_than_a_task_may_hold_are_refused(ray_cluster: str, storage: Path) -> None:  # noqa: ARG001
    with pytest.raises(TrainingFailed, match=r"3600 rows of 7 columns are .* GB, which one task would hold"):
        train(forest(storage, run="large", max_gb=1e-6), in_blocks(DATA))


@pytest.mark.parametrize(("model", "kind"), [
    (None, Trainer.Config), ("mlp", Trainer.Config), ("tests.training.nets:Wide", Trainer.Config),
    ("xgboost", XGBoostTrainer.Config), (FOREST, SklearnTrainer.Config),
])
def test_a_recipe_says_by_its_model_which_trainer_it_means(model: str | None, kind: type) -> None:
    settings = {"split": SPLIT, "storage": "runs"} | ({"model": model} if model else {})
    made = config_of(settings)
    assert type(made) is kind
    assert config_of(made.to_json()) == made


@pytest.mark.parametrize(("settings", "message"), [
    ({"model": "forest"}, "model is 'forest'; it must be 'mlp', 'xgboost' or module:attribute"),
    ({"model": "xgboost", "eta": 0.1}, "no setting 'eta'"),
    ({"model": "xgboost", "arguments": {"seed": 4}}, r"arguments\['seed'\] is 4; it must be left out"),
    ({"model": FOREST, "epochs": 3}, "no setting 'epochs'"),
    ({"model": "xgboost", "workers": (3, 2)}, r"workers is \(3, 2\); it must be a number, or \(least, most\)"),
    ({"model": "xgboost", "workers": 0}, "workers is 0; it must be at least 1"),
    ({"model": FOREST, "max_gb": 0}, "max_gb is 0; it must be more than 0"),
    ({"model": "tests.training.nets:Wide", "hidden": [8]}, "hidden, dropout is .* left out: they are the shipped"),
])
def test_a_setting_that_the_trainer_does_not_have_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of({"split": SPLIT, "storage": "runs", **settings})


def test_what_an_estimator_is_for_and_what_is_asked_for_must_agree(tmp_path: Path) -> None:
    no_rows = replace(in_blocks(pa.table(DATA.slice(0, 1))), label="amount")
    with pytest.raises(ConfigError, match=r"task is 'binary'; it must be 'regression': 'sklearn\..*' is for"):
        train(forest(tmp_path, model="sklearn.linear_model:Ridge", arguments={}, task="binary"), no_rows)
    with pytest.raises(ConfigError, match=r"'sklearn\..*' is a classifier"):
        train(forest(tmp_path, task="regression"), no_rows)


def test_a_fit_that_would_wait_for_ever_for_its_cpus_is_refused() -> None:
    eight = sklearn_trainer.SklearnTrainer.Config(split=SPLIT, storage="runs", model="sklearn.svm:SVC", cpus=8)
    with pytest.raises(ConfigError, match="cpus=8 is what the fit asks for and the cluster has 2; lower cpus"):
        sklearn_trainer.check_cpus(eight, 2.0)
