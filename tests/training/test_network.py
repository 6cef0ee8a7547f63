"""A network of one's own: named by its path, built, kept without pickle, loaded again; and what is refused of it."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlray.errors import ConfigError, CorruptArtifact, DefinitionChanged
from mlray.training.model import Model, Signature, load_model
from mlray.training.network import Features, NetworkScorer, code_of
from mlray.training.task import Task
from tests.training.made import FEATURES, columns, parts, table

DATA = table(300)
PREPROCESSING, ROWS = parts(DATA, columns(DATA))
CLASSES = Task(kind="multiclass", classes=("a", "b", "c"))


def scorer(model: str, task: Task = Task(), **arguments: object) -> NetworkScorer:  # noqa: B008
    torch.manual_seed(1)
    return NetworkScorer.build(model, arguments, Features.of(PREPROCESSING, task))


def model(path: str, task: Task = Task()) -> Model:  # noqa: B008
    inputs = {name: str(DATA.schema.field(name).type) for name in FEATURES}
    signature = Signature.of(inputs, "bought", task, model=path, code_sha256=code_of(path))
    return Model(scorer(path, task), PREPROCESSING, signature)


@pytest.mark.parametrize("path", ["mlp", "tests.training.nets:Wide"])
@pytest.mark.parametrize("task", [Task(), CLASSES, Task(kind="regression")], ids=lambda t: t.kind)
def test_a_saved_network_predicts_the_same_to_the_bit(path: str, task: Task, tmp_path: Path) -> None:
    made = model(path, task)
    made.save(tmp_path)
    loaded = load_model(tmp_path)
    np.testing.assert_array_equal(loaded.predict(DATA), made.predict(DATA))
    assert (loaded.task, loaded.signature) == (task, made.signature)
    assert loaded.predict(DATA.slice(0, 0)).shape == made.predict(DATA)[:0].shape


def test_probabilities_of_classes_sum_to_one_and_a_row_alone_agrees_within_1e_12() -> None:
    made = model("mlp", CLASSES)
    predicted = made.predict(DATA)
    assert predicted.shape == (300, 3)
    np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(made.predict(DATA.slice(7, 1)), predicted[7:8], atol=1e-12)


def test_a_regression_is_trained_on_standardised_labels_and_answers_in_their_unit() -> None:
    task = Task(kind="regression")
    made = scorer("mlp", task).learned([np.array([90.0, 110.0]), np.array([]), np.array([100.0])])
    assert (made.shift, made.scale) == (100.0, pytest.approx((200 / 3) ** 0.5, rel=1e-15))
    losses = made.losses(torch.tensor([0.0, 1.0]), torch.tensor([100.0, 100.0], dtype=torch.float64))
    assert losses.tolist() == [0.0, 1.0]
    raw = scorer("mlp", task).scores(ROWS["test"].numbers, ROWS["test"].codes)
    found = made.scores(ROWS["test"].numbers, ROWS["test"].codes)
    np.testing.assert_allclose(found, raw * made.scale + 100, rtol=1e-12)


def test_a_loss_and_metrics_of_its_own_are_used() -> None:
    made = scorer("tests.training.nets:Robust", Task(kind="regression"), far=2.0)
    losses = made.losses(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0]))
    found = made.metrics(np.array([0.0, 5.0]), np.array([0.0, 1.0]))
    assert losses.tolist() == [1.0, 2.0]
    assert (found["far_off"], found["mae"]) == (0.5, 2.0)


def test_arguments_reach_the_network() -> None:
    assert "layer.bias" not in scorer("tests.training.nets:Wide", bias=False).module.state_dict()


@pytest.mark.parametrize(("path", "arguments", "message"), [
    ("nets", {}, "'nets' is no path; write module:attribute"),
    ("tests.training.nots:Wide", {}, "cannot be imported here: No module named 'tests.training.nots'; install the"),
    ("tests.training.nets:Wyde", {}, "has no attribute 'Wyde'"),
    ("tests.training.nets:Wide", {"bais": 1}, "no setting 'bais'.*did you mean 'bias'"),
    ("tests.training.nets:Untold", {}, "is no dataclass"),
    ("tests.training.nets:Half", {}, "needs the methods build, loss and metrics"),
])
def test_a_network_that_cannot_be_made_is_refused(path: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scorer(path, **arguments)


def test_a_loss_that_is_not_one_per_row_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the loss, one number per row, of network .* has the shape \(\)"):
        scorer("tests.training.nets:Mean").losses(torch.zeros(2), torch.zeros(2))
    with pytest.raises(ConfigError, match=r"the output of network 'mlp' has the shape \(2, 1\); it must be \(2,\)"):
        scorer("mlp").losses(torch.zeros(2, 1), torch.zeros(2))


def test_code_that_is_not_installed_where_it_is_served_is_named(tmp_path: Path) -> None:
    model("tests.training.nets:Wide").save(tmp_path)
    text = (tmp_path / "model.json").read_text().replace("tests.training.nets", "elsewhere.nets")
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ConfigError, match=r"'elsewhere\.nets:Wide' cannot be imported here.*every machine that"):
        load_model(tmp_path)


def test_code_that_has_changed_since_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(Path(__file__).with_name("nets.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    model("mine:Wide").save(tmp_path / "model")
    load_model(tmp_path / "model")
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# another\n")
    with pytest.raises(DefinitionChanged, match=r"the file of 'mine:Wide' was \w{12} when the model was trained"):
        load_model(tmp_path / "model")


def test_code_that_is_not_that_of_the_training_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    text = Path(__file__).with_name("nets.py").read_text()
    (tmp_path / "theirs.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    model("theirs:Wide").save(tmp_path / "model")
    built = f"def build(self, features: Features) -> nn.Module:\n        open({str(ran)!r}, 'w').close()"
    (tmp_path / "theirs.py").write_text(text.replace("def build(self, features: Features) -> nn.Module:", built))
    monkeypatch.delitem(sys.modules, "theirs")
    with pytest.raises(DefinitionChanged):
        load_model(tmp_path / "model")
    assert not ran.exists()


def test_code_of_which_the_model_does_not_say_the_bytes_is_not_run(tmp_path: Path) -> None:
    made = model("tests.training.nets:Wide")
    replace(made, signature=replace(made.signature, code_sha256=None)).save(tmp_path)
    with pytest.raises(CorruptArtifact, match=r"needs code, 'tests.training.nets:Wide', and does not say of which"):
        load_model(tmp_path)


def test_weights_of_another_network_are_corrupt(tmp_path: Path) -> None:
    model("tests.training.nets:Wide").save(tmp_path / "a")
    model("mlp").save(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").write_bytes((tmp_path / "a" / "model.safetensors").read_bytes())
    with pytest.raises(CorruptArtifact, match="does not hold a model of this version"):
        load_model(tmp_path / "b")
