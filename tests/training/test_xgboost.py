"""Rounds of trees as one worker alone makes them: cut off and gone on with, ended early, kept."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from mlray.errors import ConfigError, CorruptArtifact, TrainingFailed
from mlray.training.model import Signature, load_model
from mlray.training.task import Task
from mlray.training.xgboost_rounds import Rounds
from mlray.training.xgboost_trainer import Job, XGBoostTrainer, best, boost, check_loss
from tests.training.made import FEATURES, SPLIT, columns, parts, table

DATA = table(1_000)
PREPROCESSING, ROWS = parts(DATA, columns(DATA))
RANDOM = {"subsample": 0.7, "colsample_bytree": 0.6, "max_depth": 3}


class CutOff(Exception):
    pass


def job(storage: Path, run: str, task: Task = Task(), **settings: Any) -> Job:  # noqa: B008
    small = {"rounds": 12, "checkpoint_rounds": 4, "patience": None, "arguments": RANDOM, "task": task.kind}
    config = XGBoostTrainer.Config(**{"split": SPLIT, "storage": str(storage), **small, **settings})
    inputs = {name: str(DATA.schema.field(name).type) for name in FEATURES}
    return Job(
        config=config,
        preprocessing=PREPROCESSING,
        signature=Signature.of(inputs, "bought", task, model="xgboost"),
        parts={},
        rounds=Rounds(path=storage / run / "rounds", key="validation_log_loss"),
        model=storage / run / "model",
    )


def trained(made: Job, cut_off_after: int | None = None) -> list[float]:
    """The losses; CutOff once so many rounds are on the disk."""
    task = made.signature.known_task

    def matrix(part: str) -> xgboost.DMatrix:
        rows = ROWS[part]
        label = rows.labels if task.kind == "binary" else rows.codes[:, 0] - 1
        return xgboost.DMatrix(made.design.matrix(rows.numbers, rows.codes, np.float32), label=label)

    def report(metrics: dict[str, float]) -> None:
        if metrics.get("round") == cut_off_after and metrics:
            raise CutOff

    return boost(made, matrix("train"), matrix("validation"), first=True, report=report)


def model(made: Job) -> bytes:
    return (made.model / "model.ubj").read_bytes()


def test_a_run_that_was_cut_off_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, cut = job(tmp_path, "a"), job(tmp_path, "b")
    losses = trained(undisturbed)
    with pytest.raises(CutOff):
        trained(cut, cut_off_after=8)
    assert cut.rounds.latest() == 8
    assert trained(cut) == losses
    assert model(cut) == model(undisturbed)


def test_a_longer_run_goes_on_and_ends_with_the_bytes_of_one_that_was_longer_at_once(tmp_path: Path) -> None:
    longer, short = job(tmp_path, "a", rounds=12), job(tmp_path, "b", rounds=10)
    trained(longer)
    assert len(trained(short)) == 10
    trained(replace(short, config=longer.config))
    assert model(short) == model(longer)


def test_another_seed_gives_other_trees(tmp_path: Path) -> None:
    one, other = job(tmp_path, "a"), job(tmp_path, "b", seed=1)
    assert trained(one) != trained(other)


def test_a_saved_model_predicts_the_same_to_the_bit_alone_and_in_a_batch(tmp_path: Path) -> None:
    made = job(tmp_path, "a", one_hot=True)
    trained(made)
    loaded = load_model(made.model)
    whole = loaded.predict(DATA)
    np.testing.assert_array_equal(np.concatenate([loaded.predict(DATA.slice(i, 1)) for i in range(50)]), whole[:50])
    assert len(loaded.columns) == PREPROCESSING.width + sum(PREPROCESSING.sizes)


def test_several_classes_have_a_column_each(tmp_path: Path) -> None:
    made = job(tmp_path, "a", Task(kind="multiclass", classes=("none", "DE", "FR", "PT")))
    trained(made)
    predicted = load_model(made.model).predict(DATA)
    assert predicted.shape == (1000, 4)
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-6)


def test_the_best_rounds_are_published_and_a_run_ends_where_none_gets_better(tmp_path: Path) -> None:
    made = job(tmp_path, "a", rounds=400, patience=8, arguments={**RANDOM, "eta": 0.9})
    losses = trained(made)
    assert len(losses) < 400
    booster = xgboost.Booster(model_file=made.model / "model.ubj")
    assert booster.num_boosted_rounds() == best(losses) < len(losses)


def test_a_run_that_had_ended_and_is_begun_again_grows_no_tree(tmp_path: Path) -> None:
    #  over by patience where a chunk ends: killed between its checkpoint and the model
    made = job(tmp_path, "a", rounds=400, patience=8, arguments={**RANDOM, "eta": 0.9})
    losses = trained(made)
    grown = model(made)
    (made.model / "model.ubj").unlink()
    assert trained(made) == losses
    assert model(made) == grown


@pytest.mark.parametrize("shorter", [{"rounds": 4}, {"rounds": 11}, {"patience": 1, "arguments": RANDOM}])
def test_fewer_rounds_than_a_run_has_are_refused(tmp_path: Path, shorter: dict[str, Any]) -> None:
    made = job(tmp_path, "a")
    made.rounds.save(b"", [0.5, 0.4, 0.3, 0.35, 0.34, 0.33, 0.32, 0.31, 0.3, 0.3, 0.3, 0.3])
    with pytest.raises(ConfigError, match=r"the run has 12 rounds already, .*; ask for as many, or pass another"):
        replace(made.config, **shorter).check_length(made.rounds.restore()[1])
    made.config.check_length(made.rounds.restore()[1])


def test_a_worker_that_outlived_its_controller_drops_no_newer_rounds(tmp_path: Path) -> None:
    rounds = Rounds(path=tmp_path / "rounds", key="loss")
    rounds.save(b"newer", [0.3, 0.2, 0.1])
    rounds.save(b"older", [0.3, 0.2])
    assert rounds.restore() == (b"newer", [0.3, 0.2, 0.1])


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(TrainingFailed, match="the validation loss is nan after round 2; lower eta"):
        check_loss([0.5, float("nan")])


def test_a_torn_file_is_a_corrupt_artifact(tmp_path: Path) -> None:
    made = job(tmp_path, "a", rounds=1)
    trained(made)
    (made.model / "model.ubj").write_bytes(model(made)[:50])
    with pytest.raises(CorruptArtifact, match="does not hold a model of this version"):
        load_model(made.model)


def test_without_the_package_a_model_says_which_extra_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path, "a", rounds=1)
    trained(made)
    monkeypatch.setitem(sys.modules, "mlray.training.xgboost_model", None)
    with pytest.raises(ConfigError, match=r"a model of xgboost, which needs a package: pip install 'mlray\[xgboost\]'"):
        load_model(made.model)
