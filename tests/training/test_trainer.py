from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlray.errors import ConfigError, TimeError, TrainingFailed
from mlray.training.checkpoint import RunDirectory
from mlray.training.evaluate import auc
from mlray.training.model import load_model
from mlray.training.trainer import Trainer
from tests.training.made import SPLIT, config, scores, table, trainer

DATA = table(4000)


class Interrupted(Exception):
    pass


def test_it_learns_and_the_published_model_gives_the_metrics(tmp_path: Path) -> None:
    metrics = trainer(config(tmp_path, run="r"), DATA).train()

    test = DATA.slice(3200)
    predicted = load_model(tmp_path / "r" / "model").predict(test)
    assert metrics["test_auc"] > 0.75
    assert auc(test["bought"].to_numpy().astype(float), predicted) == pytest.approx(metrics["test_auc"], abs=1e-9)
    assert metrics["validation_auc"] == max(e["validation_auc"] for e in RunDirectory(tmp_path / "r").history())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer(config(tmp_path, run=run, seed=seed), DATA).train()
    a, b, c = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in "abc")
    assert a == b != c


def test_an_interrupted_run_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    def interrupt(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 2:
            raise Interrupted

    undisturbed = trainer(config(tmp_path, run="a", epochs=4), DATA).train()
    with pytest.raises(Interrupted):
        trainer(config(tmp_path, run="b", epochs=4), DATA, report=interrupt).train()
    resumed = trainer(config(tmp_path, run="b", epochs=4), DATA)

    assert resumed.train() == undisturbed
    assert [e["epoch"] for e in resumed.history] == [1, 2, 3, 4]
    assert list(map(scores, resumed.history)) == list(map(scores, RunDirectory(tmp_path / "a").history()))
    a, b = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in "ab")
    assert a == b


def test_a_checkpoint_that_was_being_written_is_as_if_it_were_not(tmp_path: Path) -> None:
    trainer(config(tmp_path, run="r", epochs=1), DATA).train()
    torn = tmp_path / "r" / "epochs" / ".0002.123"
    torn.mkdir()
    (torn / "model.json").write_text("{")

    directory = RunDirectory(tmp_path / "r")
    assert directory.latest() == 1
    directory.tidy()
    assert not torn.exists()


def test_it_stops_after_patience_epochs_without_a_better_auc(tmp_path: Path) -> None:
    stopped = trainer(config(tmp_path, run="r", epochs=50, patience=2, learning_rate=0.05), DATA).train()
    assert stopped["epochs"] == stopped["best_epoch"] + 2
    kept = {int(stopped["best_epoch"]), int(stopped["epochs"])}
    assert set(RunDirectory(tmp_path / "r").epochs()) == kept


def test_a_batch_larger_than_the_data_and_no_hidden_layer_train(tmp_path: Path) -> None:
    metrics = trainer(config(tmp_path, run="r", batch_size=8192, shuffle_rows=8192, hidden=()), DATA).train()
    assert np.isfinite(metrics["train_loss"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_batch_and_feature(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"the loss is (nan|inf) in epoch 1, batch \d+ .* feature '\w+' = .*lower"):
        trainer(config(tmp_path, run="r", learning_rate=1e30), DATA).train()


def test_a_configuration_survives_json() -> None:
    made = Trainer.Config(split=SPLIT, storage="runs", run="a", hidden=(8,), patience=None)
    assert Trainer.Config.from_json(made.to_json()) == made


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'epoch'.*did you mean 'epochs'"):
        Trainer.Config.from_json({"epoch": 3})


@pytest.mark.parametrize(("settings", "message"), [
    ({"epochs": 0}, "epochs is 0; it must be at least 1"),
    ({"dropout": 1.0}, "dropout is 1.0"),
    ({"device": "gpu"}, "device is 'gpu'; it must be 'auto', 'cpu' or 'cuda'"),
    ({"batch_size": 100, "shuffle_rows": 250}, "a multiple of batch_size, for example 300"),
    ({"split": SPLIT[::-1]}, "three ascending instants"),
    ({"split": SPLIT[:2]}, "train_until, validation_until, test_until"),
    ({"run": "../elsewhere"}, "a plain name"),
])
def test_a_setting_that_cannot_work_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **settings)


def test_a_naive_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TimeError, match="has no time zone"):
        config(tmp_path, split=(datetime(2026, 1, 1), *(t.astimezone(UTC) for t in SPLIT[1:])))
