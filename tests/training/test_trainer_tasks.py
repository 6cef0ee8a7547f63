"""Classes, values and networks of one's own through the one loop, as one worker runs it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlray.training.checkpoint import RunDirectory
from mlray.training.config import PARTS
from mlray.training.model import Signature, load_model
from mlray.training.network import code_of
from mlray.training.preparation import Columns, Encoding, assign_parts, observe, order, scatter
from mlray.training.preprocessing import Preprocessing, kind
from mlray.training.task import Task
from mlray.training.trainer import Trainer
from tests.training.made import SPLIT, config, scores, table

DATA = table(3_000)
SORT = Task(kind="multiclass", classes=("large", "middle", "small"))
VALUE = Task(kind="regression")


def labelled(task: Task) -> pa.Table:
    """The label is of the amount: its size as a word, or a value far from zero that falls with its logarithm."""
    logarithm = np.log(DATA["amount"].to_numpy())
    words = np.array(["small", "middle", "large"])[np.digitize(logarithm, [2, 4])]
    return DATA.append_column("label", pa.array(words if task is SORT else 1e6 - 500 * logarithm))


def trainer(storage: Path, run: str, task: Task, model: str = "mlp", **settings: Any) -> Trainer:
    data, features = labelled(task), ["amount", "visits", "country"]
    kinds = {name: kind(name, data.schema.field(name).type) for name in features}
    read = Columns(kinds=kinds, label="label", timestamp="at", task=task.kind, label_type=data["label"].type)
    block = assign_parts(data, read, SPLIT)
    preprocessing = Preprocessing.learn(kinds, observe(block, read), max_categories=100)
    _, shards = scatter(block, Encoding(preprocessing, read, task), [1, 1, 1])
    rows = {part: order(shard) for part, shard in zip(PARTS, shards, strict=True)}
    inputs = {name: str(data.schema.field(name).type) for name in features}
    network = {"hidden": (32,)} if model == "mlp" else {}
    return Trainer(
        config(storage, run=run, **{"hidden": (128, 64), "model": model, "learning_rate": 0.01, **network, **settings}),
        preprocessing,
        Signature.of(inputs, "label", task, model=model, code_sha256=code_of(model)),
        {part: lambda held=held: iter([held]) for part, held in rows.items()},
        {part: len(held) for part, held in rows.items()},
        RunDirectory(storage / run),
    )


def test_classes_are_learned_and_the_best_epoch_is_that_of_the_least_log_loss(tmp_path: Path) -> None:
    made = trainer(tmp_path, "r", SORT, epochs=5)
    metrics = made.train()
    assert metrics["test_accuracy"] > 0.9
    assert metrics["validation_log_loss"] == min(epoch["validation_log_loss"] for epoch in made.progress.history)
    predicted = load_model(tmp_path / "r" / "model").predict(labelled(SORT).slice(2_400))
    decided = SORT.names(predicted)
    assert np.mean([a == b for a, b in zip(decided, labelled(SORT)["label"].to_pylist()[2_400:], strict=True)]) == (
        metrics["test_accuracy"]
    )


def test_values_far_from_zero_are_learned_and_answered_in_their_unit(tmp_path: Path) -> None:
    metrics = trainer(tmp_path, "r", VALUE, epochs=8).train()
    predicted = load_model(tmp_path / "r" / "model").predict(labelled(VALUE).slice(2_400))
    errors = predicted - labelled(VALUE)["label"].to_numpy()[2_400:]
    assert metrics["test_r2"] > 0.9
    assert metrics["test_rmse"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-6)


@pytest.mark.parametrize(("model", "task"), [
    ("tests.training.nets:Wide", SORT), ("tests.training.nets:Robust", VALUE), ("mlp", VALUE),
])
def test_the_same_seed_gives_the_same_bytes_also_where_it_was_cut_off(model: str, task: Task, tmp_path: Path) -> None:
    whole = trainer(tmp_path, "a", task, model, epochs=3).train()
    trainer(tmp_path, "b", task, model, epochs=2).train()
    resumed = trainer(tmp_path, "b", task, model, epochs=3)
    assert scores(resumed.train()) == scores(whole)
    a, b = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in "ab")
    assert a == b


def test_a_network_s_own_metrics_stand_beside_the_task_s(tmp_path: Path) -> None:
    metrics = trainer(tmp_path, "r", VALUE, "tests.training.nets:Robust", epochs=1).train()
    assert {"validation_far_off", "test_far_off", "test_rmse"} <= metrics.keys()
