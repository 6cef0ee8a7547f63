"""The loop as one worker runs it, without Ray."""

import math
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from deltalake import DeltaTable

from mlray.errors import ConfigError, CorruptArtifact, TrainingFailed
from mlray.training.checkpoint import Progress, RunDirectory, best_epochs
from mlray.training.evaluate import auc
from mlray.training.model import load_model
from mlray.training.trainer import Trainer
from tests.training.made import config, scores, table, trainer, weights

DATA = table(4000)
STEPS_OF_AN_EPOCH = 10  # 2400 training rows in batches of 256


class Interrupted(Exception):
    pass


def interrupted_at(step: int, made: Trainer) -> None:
    """Trains until that step has been taken, and then no further."""
    take = made.step

    def take_until(batch: Any) -> None:
        take(batch)
        if made.progress.step == step:
            raise Interrupted

    made.step = take_until  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        made.train()


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The logged metrics without the clock's, in order."""
    rows = DeltaTable(run / "steps").to_pyarrow_table().drop_columns(["seconds", "waited"])
    return sorted(rows.to_pylist(), key=lambda row: row["step"])


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
    a, b, c = (weights(tmp_path / run) for run in "abc")
    assert a == b != c


SCHEDULES = {
    "constant": {},
    "by epoch": {"schedule": {"name": "CosineAnnealingLR", "arguments": {"T_max": 3}}},
    "by step": {"schedule": {"name": "OneCycleLR", "arguments": {"max_lr": 0.01, "total_steps": 30}, "per": "step"}},
    "at milestones": {"schedule": {"name": "MultiStepLR", "arguments": {"milestones": [8, 20]}, "per": "step"}},
    "by loss": {"schedule": {"name": "ReduceLROnPlateau", "arguments": {"patience": 0, "threshold": 0.5}}},
    "another optimizer": {"optimizer": {"name": "SGD", "arguments": {"momentum": 0.9, "nesterov": True}, "clip": 0.1}},
}


@pytest.mark.parametrize(
    ("settings", "step"),
    [*((s, 7) for s in SCHEDULES.values()), ({}, 20), ({}, 24)],
    ids=[*SCHEDULES, "as an epoch ends", "before a checkpoint"],
)
def test_a_run_that_was_cut_off_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, settings: dict[str, Any], step: int
) -> None:
    #  a checkpoint every 3 steps, and at the end of each epoch (10, 20, 30)
    #  cut off after step 7: within an epoch    20: as an epoch ends, before its checkpoint    24: before a checkpoint
    undisturbed = trainer(config(tmp_path, run="a", **settings), DATA).train()
    interrupted_at(step, trainer(config(tmp_path, run="b", steps=3, **settings), DATA))
    latest = RunDirectory(tmp_path / "b").latest()

    resumed = trainer(config(tmp_path, run="b", steps=3, **settings), DATA)

    assert latest == {7: 6, 20: 18, 24: 21}[step]
    assert resumed.train() == undisturbed
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert list(map(scores, resumed.progress.history)) == list(map(scores, RunDirectory(tmp_path / "a").history()))
    assert steps_of(tmp_path / "b") == steps_of(tmp_path / "a")
    assert [row["step"] for row in steps_of(tmp_path / "b")] == list(range(1, 31))


def test_a_step_that_takes_its_rows_in_pieces_agrees_but_for_the_rounding(tmp_path: Path) -> None:
    #  without dropout, which draws anew for each piece
    whole = trainer(config(tmp_path, run="a", dropout=0.0), DATA).train()
    pieces = trainer(config(tmp_path, run="b", dropout=0.0, accumulate=3), DATA).train()
    assert pieces["train_loss"] == pytest.approx(whole["train_loss"], abs=1e-6)
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_a_clipped_gradient_is_as_long_as_it_may_be(tmp_path: Path) -> None:
    made = trainer(config(tmp_path, run="r", clip=0.01), DATA)
    made.step(next(made.batches()))
    assert made.unlogged[0].gradient_norm > 0.01
    assert torch.linalg.vector_norm(made.gradients.flat[2:]).item() == pytest.approx(0.01)


def test_bfloat16_learns_as_well_and_keeps_its_weights_in_float32(tmp_path: Path) -> None:
    wide = trainer(config(tmp_path, run="a"), DATA).train()
    made = trainer(config(tmp_path, run="b", dtype="bfloat16"), DATA)
    narrow = made.train()
    assert narrow["test_auc"] == pytest.approx(wide["test_auc"], abs=0.01)
    assert narrow["train_loss"] != wide["train_loss"]
    assert {p.dtype for p in made.network.parameters()} == {torch.float32}


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_network_learns_the_same_and_is_kept_as_it_was(tmp_path: Path) -> None:
    small: dict[str, Any] = {"hidden": (), "epochs": 1}
    plain = trainer(config(tmp_path, run="a", **small), DATA).train()
    compiled = trainer(config(tmp_path, run="b", compile=True, **small), DATA).train()
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], abs=1e-5)
    assert load_model(tmp_path / "b" / "model").predict(DATA.slice(0, 5)).shape == (5,)


def test_weights_count_rows_as_often_as_they_say(tmp_path: Path) -> None:
    #  each row of a small set twice, or once with the weight 2: the same sums, so the same gradients
    half = DATA.slice(0, 128)
    doubled = half.append_column("twice", [[2.0] * 128])
    settings = {"batch_size": 256, "shuffle_rows": 256, "dropout": 0.0}
    once = first_gradient(trainer(config(tmp_path, run="a", weight="twice", **settings), doubled))
    twice = first_gradient(trainer(config(tmp_path, run="b", class_weights={"0": 2, "1": 2}, **settings), half))
    assert torch.equal(once, twice)
    plain = first_gradient(trainer(config(tmp_path, run="c", **settings), half))
    torch.testing.assert_close(once, 2 * plain)


def first_gradient(made: Trainer) -> torch.Tensor:
    made.step(next(made.batches()))
    return made.gradients.flat.clone()


def test_balanced_classes_weigh_the_same_together(tmp_path: Path) -> None:
    made = trainer(config(tmp_path, run="r", class_weights="balanced"), DATA)
    [rows] = made.streams["train"]()
    positive = rows.labels == 1
    assert rows.weights[positive].sum() == pytest.approx(len(rows) / 2, rel=1e-5)
    assert rows.weights[~positive].sum() == pytest.approx(len(rows) / 2, rel=1e-5)


def test_a_checkpoint_that_was_being_written_is_as_if_it_were_not(tmp_path: Path) -> None:
    trainer(config(tmp_path, run="r", epochs=1), DATA).train()
    torn = tmp_path / "r" / "checkpoints" / ".00000020.123"
    torn.mkdir()
    (torn / "model.json").write_text("{")

    directory = RunDirectory(tmp_path / "r")
    assert directory.latest() == STEPS_OF_AN_EPOCH
    directory.tidy()
    assert not torn.exists()


def test_a_checkpoint_is_due_after_so_many_seconds(tmp_path: Path) -> None:
    seconds = iter(range(1_000_000))
    made = trainer(config(tmp_path, run="r", epochs=1, seconds=7), DATA, clock=lambda: float(next(seconds)))
    written: list[int] = []
    made.saver.save = lambda write: (written.append(made.progress.step), write())  # type: ignore[method-assign]
    made.train()
    assert len(written) > 3
    assert STEPS_OF_AN_EPOCH in written


def test_it_stops_after_patience_epochs_without_a_better_auc(tmp_path: Path) -> None:
    stopped = trainer(config(tmp_path, run="r", epochs=50, patience=2, learning_rate=0.05), DATA).train()
    assert stopped["epochs"] == stopped["best_epoch"] + 2
    kept = {STEPS_OF_AN_EPOCH * int(epoch) for epoch in (stopped["best_epoch"], stopped["epochs"])}
    assert set(RunDirectory(tmp_path / "r").checkpoints()) == kept


def test_the_best_epochs_by_another_metric_stay(tmp_path: Path) -> None:
    #  of 5 epochs the two of least log loss, and the last
    settings = config(tmp_path, run="r", epochs=5, patience=None, keep=2, metric="log_loss", learning_rate=0.05)
    ended = trainer(settings, DATA).train()
    history = RunDirectory(tmp_path / "r").history()
    best = sorted(history, key=lambda epoch: epoch["validation_log_loss"])[:2]
    assert set(RunDirectory(tmp_path / "r").checkpoints()) == {int(e["step"]) for e in (*best, history[-1])}
    assert ended["best_epoch"] == best[0]["epoch"]


def test_a_metric_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.metric: there is no setting 'aux'.*did you mean 'auc'"):
        trainer(config(tmp_path, run="r", metric="aux"), DATA).train()


def test_a_batch_larger_than_the_data_and_no_hidden_layer_train(tmp_path: Path) -> None:
    metrics = trainer(config(tmp_path, run="r", batch_size=8192, shuffle_rows=8192, hidden=()), DATA).train()
    assert np.isfinite(metrics["train_loss"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_batch_and_feature(tmp_path: Path) -> None:
    made = trainer(config(tmp_path, run="r", steps=1, learning_rate=1e30), DATA)
    message = r"(loss|norm).* is (nan|inf) in epoch 1, batch \d+ .* feature '\w+' = .*lower"
    with pytest.raises(TrainingFailed, match=message) as told:
        made.train()
    assert (latest := RunDirectory(tmp_path / "r").latest()) == made.progress.step > 0
    assert str(told.value).endswith(f"; the checkpoint of step {latest} is whole")
    with pytest.raises(TrainingFailed, match="; there is no checkpoint yet"):
        trainer(config(tmp_path, run="none", learning_rate=1e30), DATA).train()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond it, as a full disk would."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_disk_that_is_full_stops_the_run_and_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    undisturbed = trainer(config(tmp_path, run="a"), DATA).train()
    interrupted_at(5, trainer(config(tmp_path, run="b", steps=2), DATA))

    with files_of_at_most(3000), pytest.raises(TrainingFailed, match=r"step 6 cannot be written .* of step 4 is whole"):
        trainer(config(tmp_path, run="b", steps=2), DATA).train()

    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["00000004"]
    assert trainer(config(tmp_path, run="b"), DATA).train() == undisturbed
    assert weights(tmp_path / "b") == weights(tmp_path / "a")


class DroppedMeanwhile(RunDirectory):
    """A worker that outlived its controller writes its next checkpoint once this one has looked for the latest."""

    def latest(self) -> int:
        found = super().latest()
        newer = self.path / "newer"
        if newer.exists():
            newer.rename(self.checkpoint(2 * found))
            shutil.rmtree(self.checkpoint(found))
        return found


def test_a_checkpoint_dropped_for_a_newer_one_while_it_is_looked_at_does_not_end_the_run(tmp_path: Path) -> None:
    whole = trainer(config(tmp_path, run="a"), DATA).train()
    made = trainer(config(tmp_path, run="b", epochs=2, keep=2), DATA)
    made.train()
    made.directory.checkpoint(20).rename(tmp_path / "b" / "newer")

    resumed = trainer(config(tmp_path, run="b"), DATA)
    resumed.directory = DroppedMeanwhile(tmp_path / "b")

    assert resumed.train()["train_loss"] == whole["train_loss"]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    trainer(config(tmp_path, run="r", epochs=1), DATA).train()
    (tmp_path / "r" / "checkpoints" / "00000010" / "state.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"00000010 cannot be resumed .*; remove it to go on before"):
        trainer(config(tmp_path, run="r"), DATA).train()


@pytest.mark.parametrize("shorter", [{"epochs": 2}, {"patience": 1}])
def test_fewer_epochs_than_a_run_has_are_refused(tmp_path: Path, shorter: dict[str, Any]) -> None:
    long: dict[str, Any] = {"epochs": 6, "patience": None, "learning_rate": 0.05}
    trainer(config(tmp_path, run="r", **long), DATA).train()
    with pytest.raises(ConfigError, match=r"has 6 epochs already, and would have ended before .*; ask for as many"):
        trainer(config(tmp_path, run="r", **(long | shorter)), DATA).train()
    assert trainer(config(tmp_path, run="r", **long), DATA).train()["epochs"] == 6


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    trainer(config(tmp_path, run="r", epochs=1), DATA).train()
    with pytest.raises(CorruptArtifact, match=r"another architecture: 'layers.0.bias' is \(32,\) there and \(16,\)"):
        trainer(config(tmp_path, run="r", hidden=(16,)), DATA).train()


@pytest.mark.parametrize(("settings", "message"), [
    ({"optimizer": {"name": "Adamm"}}, "torch has no optimizer 'Adamm'.*did you mean 'Adam"),
    ({"optimizer": {"arguments": {"momentum": 1}}}, "optimizer AdamW does not take .*momentum"),
    ({"schedule": {"name": "StepLr"}}, "torch has no schedule 'StepLr'.*did you mean 'StepLR'"),
    ({"schedule": {"name": "StepLR"}}, "schedule StepLR does not take {}.*step_size"),
])
def test_what_torch_does_not_know_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(config(tmp_path, run="r", **settings), DATA)


def test_no_number_is_the_worst_of_a_metric() -> None:
    history = tuple({"epoch": float(i), "m": m} for i, m in enumerate((math.nan, 2.0, 1.0, 2.0)))
    assert [epoch["epoch"] for epoch in best_epochs(history, "m", True, 4)] == [1, 3, 2, 0]
    assert [epoch["epoch"] for epoch in best_epochs(history, "m", False, 4)] == [2, 1, 3, 0]


@dataclass(frozen=True)
class Quick:
    """What a save needs of a snapshot."""

    progress: Progress

    def write(self, directory: Path) -> None:
        (directory / "state.json").write_text("{}")


def test_a_worker_that_outlived_its_controller_and_its_successor_drop_the_same_checkpoints(tmp_path: Path) -> None:
    for attempt in range(20):
        run = RunDirectory(tmp_path / str(attempt))
        for step in (10, 20, 30):
            run.save(Quick(Progress(step=step)), {10, 20, 30})  # type: ignore[arg-type]
        both = Barrier(2)

        def save(step: int, run: RunDirectory = run, both: Barrier = both) -> None:
            both.wait()
            run.save(Quick(Progress(step=step)), set())  # type: ignore[arg-type]

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(save, (40, 50)))
        assert run.latest() == 50
