"""Explanations: what the features add sums to what the model said; a request is explained from the checkpoint alone."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
import torch
import xgboost
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

from mlray.errors import ConfigError, ExplanationFailed, UnknownName
from mlray.gates.explainer import Explainer, unit_of
from mlray.gates.explainer import Explanation as Explanations
from mlray.gates.explanation import explain, explain_model, write_explanation
from mlray.gates.result import Result
from mlray.gates.settings import Explanation
from mlray.gates.shapley import methods
from mlray.training.design import Design
from mlray.training.model import Model, load_model
from mlray.training.network import Features, Network, NetworkScorer
from mlray.training.preprocessing import Preprocessing
from mlray.training.sklearn_model import SklearnScorer
from mlray.training.task import Task
from mlray.training.xgboost_model import BoosterScorer
from tests.training.made import FEATURES, config, table, trainer

DATA = table(5000)
ROWS, BACKGROUND = DATA.slice(4000, 300), DATA.slice(0, 100)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = trainer(config(tmp_path_factory.mktemp("runs"), run="r", epochs=2), DATA)
    made.train()
    return made.directory.model


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return load_model(checkpoint)


@pytest.fixture(scope="module")
def found(model: Model) -> Explanations:
    return Explainer(model, BACKGROUND).explain(ROWS)


def test_base_and_values_of_a_row_sum_to_the_models_output(model: Model, found: Explanations) -> None:
    assert (found.method, found.features, found.values.shape) == ("deep", tuple(FEATURES), (300, 5, 1))
    log_odds = found.base + found.values.sum(axis=1)[:, 0]
    assert 1 / (1 + np.exp(-log_odds)) == pytest.approx(model.predict(ROWS), abs=1e-9)


def test_what_an_embedding_and_an_indicator_add_counts_for_their_feature(found: Explanations) -> None:
    #  the label depends on amount, on country and on whether rate is missing; see tests/training/made.py
    assert set(list(found.importance())[:3]) == {"amount", "country", "rate"}
    missing = np.isnan(ROWS.column("rate").to_numpy())
    rate = found.values[:, found.features.index("rate"), 0]
    assert rate[missing].mean() < rate[~missing].mean()


@pytest.fixture(scope="module")
def result(model: Model) -> Result:
    return explain_model(model, BACKGROUND, ROWS, Explanation(slices=("country",)))


def test_the_gate_says_how_nearly_they_add_up_and_tells_each_slice(result: Result) -> None:
    assert result.passed
    assert result.value is not None
    assert result.value < 1e-9
    lines = result.details["slices"]
    assert sum(line["rows"] for line in lines) == 300
    assert {line["slice"] for line in lines} == {"DE", "FR", "PT", "(missing)"}
    sizes = [line["importance"]["country"] for line in lines]
    assert len(set(sizes)) == 4
    together = sum(line["rows"] * size for line, size in zip(lines, sizes, strict=True)) / 300
    assert together == pytest.approx(result.details["importance"]["country"])


def test_a_request_is_explained_from_the_checkpoint_alone(result: Result, checkpoint: Path) -> None:
    with pytest.raises(UnknownName, match=r"train with \[gates.explanation\]"):
        explain(checkpoint, ROWS.to_pylist()[0])
    write_explanation(checkpoint, result, BACKGROUND, FEATURES)
    row = ROWS.select(FEATURES).to_pylist()[0]
    told = explain(checkpoint, row)
    assert set(told["features"]) == set(FEATURES)
    assert told["base"] + sum(told["features"].values()) == pytest.approx(told["output"])


class Functional(nn.Module):
    """A network whose ReLU is no module: Deep SHAP does not see it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, 16), nn.Linear(16, 1)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:  # noqa: ARG002
        return self.last(torch.relu(self.first(numbers))).squeeze(1)


@dataclass(frozen=True)
class Own(Network):
    def build(self, features: Features) -> nn.Module:
        return Functional(features.width)


class Bent(nn.Module):
    """Linear as far as the background goes, and bent beyond it by what is no module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:  # noqa: ARG002
        return self.layer(numbers).squeeze(1) + 9 * torch.relu(numbers[:, 0].abs() - 6)


def own(model: Model, preprocessing: Preprocessing, kind: type[nn.Module] = Functional) -> Model:
    """An untrained network of one's own over what the preprocessing gives."""
    torch.manual_seed(0)
    features = Features.of(preprocessing, model.task)
    scorer = NetworkScorer("own", Own(), features, kind(features.width).double().eval())
    kept = {n.name for n in preprocessing.numbers} | {t.name for t in preprocessing.texts}
    inputs = {name: kind for name, kind in model.signature.inputs.items() if name in kept}
    return Model(scorer, preprocessing, replace(model.signature, inputs=inputs))


def test_where_deep_shap_does_not_add_up_gradients_are_taken(model: Model) -> None:
    found = Explainer(own(model, replace(model.preprocessing, texts=())), BACKGROUND).explain(ROWS.slice(0, 10))
    assert found.method == "gradient"
    assert 0 < found.error < 0.25


def test_the_gate_fails_where_values_of_the_rows_do_not_add_up(model: Model) -> None:
    bent = own(model, replace(model.preprocessing, texts=()), Bent)
    far = ROWS.slice(0, 20).set_column(ROWS.schema.names.index("amount"), "amount", pa.array([1e300] * 20))
    assert explain_model(bent, BACKGROUND, ROWS.slice(0, 20), Explanation()).passed
    result = explain_model(bent, BACKGROUND, far, Explanation())
    assert not result.passed
    assert result.problems[0].startswith("base and SHAP values miss the model's output by ")


def test_a_network_of_ones_own_that_reads_texts_is_explained_by_permutations(model: Model) -> None:
    found = Explainer(own(model, model.preprocessing), BACKGROUND.slice(0, 20)).explain(ROWS.slice(0, 5))
    assert (found.method, found.values.shape) == ("permutation", (5, 5, 1))
    assert found.error < 1e-9
    assert not found.values[:, found.features.index("country")].any()  # which it does not read


@pytest.mark.parametrize("kind", ["forest", "booster"])
def test_trees_are_explained_exactly(model: Model, kind: str) -> None:
    encoded = model.preprocessing.encode(DATA)
    design = Design.of(model.preprocessing, one_hot=True)
    matrix, labels = design.matrix(encoded.numbers, encoded.codes), DATA.column("bought").to_numpy()
    scorer: Any
    if kind == "forest":
        forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(matrix, labels)
        scorer = SklearnScorer("sklearn.ensemble:RandomForestClassifier", forest, design, model.task)
    else:
        rows = xgboost.DMatrix(matrix.astype(np.float32), labels)
        trees = xgboost.train({"objective": "binary:logistic", "nthread": 1}, rows, 10)
        scorer = BoosterScorer(trees, design, model.task)
    found = Explainer(Model(scorer, model.preprocessing, model.signature), BACKGROUND).explain(ROWS)
    assert (found.method, found.features) == ("tree", tuple(FEATURES))
    assert (found.unit, found.values.shape[2]) == ("probability" if kind == "forest" else "log-odds", 1)
    assert found.error < 1e-5
    assert set(list(found.importance())[:3]) == {"amount", "country", "rate"}


class Broken(RandomForestClassifier):
    """Whose trees cannot be looked at, for a reason that has nothing to do with shap."""

    def __getattribute__(self, name: str) -> Any:
        if name == "estimators_":
            raise RuntimeError("the disk is not there")
        return super().__getattribute__(name)


def test_an_error_that_is_not_about_what_shap_can_read_is_not_swallowed(model: Model) -> None:
    design = Design.of(model.preprocessing, one_hot=True)
    broken = Model(SklearnScorer("tests:Broken", Broken(), design, model.task), model.preprocessing, model.signature)
    with pytest.raises(RuntimeError, match="the disk is not there"):
        next(methods(broken, model.preprocessing.encode(BACKGROUND)))


class Doubled(nn.Module):
    """It has the parts of the shipped network, and puts them together in another way."""

    def __init__(self, shipped: Any) -> None:
        super().__init__()
        self.shipped, self.layers, self.embeddings = shipped, shipped.layers, shipped.embeddings

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        return 2 * self.shipped(numbers, codes)


def test_layers_that_are_not_the_whole_network_do_not_stand_for_it(model: Model) -> None:
    scorer: Any = model.scorer
    other = replace(model, scorer=replace(scorer, module=Doubled(scorer.module)))
    found = Explainer(other, BACKGROUND.slice(0, 20)).explain(ROWS.slice(0, 3))
    assert (found.method, found.unit) == ("permutation", "probability")
    assert found.outputs[:, 0] == pytest.approx(other.predict(ROWS.slice(0, 3)))


def test_a_value_is_explained_in_the_unit_of_its_label(model: Model) -> None:
    scorer: Any = model.scorer
    task = Task(kind="regression")
    euros = replace(scorer, features=replace(scorer.features, task=task), shift=100.0, scale=25.0)
    other = Model(euros, model.preprocessing, replace(model.signature, task="regression"))
    found = Explainer(other, BACKGROUND).explain(ROWS.slice(0, 5))
    assert (found.method, found.unit) == ("deep", "value")
    assert found.outputs[:, 0] == pytest.approx(other.predict(ROWS.slice(0, 5)))
    assert found.error < 1e-9


def test_the_unit_is_that_in_which_the_outputs_tell_the_predictions() -> None:
    odds, several = np.array([[-2.0], [0.5]]), np.array([[1.0, 2.0, 3.0], [0.0, 5.0, -1.0]])
    shares = np.exp(several) / np.exp(several).sum(axis=1, keepdims=True)
    value, classes = Task(kind="regression"), Task(kind="multiclass", classes=("a", "b", "c"))
    assert unit_of(odds, 1 / (1 + np.exp(-odds[:, 0])), Task()) == "log-odds"
    assert unit_of(odds, odds[:, 0], value) == "value"
    assert unit_of(odds, np.exp(odds[:, 0]), value) == "logarithm"
    assert (unit_of(several, shares, classes), unit_of(shares, shares, classes)) == ("logits", "probability")
    assert unit_of(odds, odds[:, 0] + 1, Task()) is None


def test_outputs_that_are_only_as_tiny_as_the_predictions_do_not_tell_them() -> None:
    told = np.array([1e-7, 3e-7])
    assert unit_of(told[::-1, None], told, Task()) is None
    assert unit_of(np.log(told / (1 - told))[:, None], told, Task()) == "log-odds"


def test_values_that_do_not_add_up_are_not_shown(found: Explanations) -> None:
    with pytest.raises(ExplanationFailed, match=r"miss the model's output by .* allowed are 1e-06"):
        next(replace(found, base=found.base + 0.01).each())


def test_without_the_package_the_error_names_the_extra(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlray\[explain\]'"):
        Explainer(model, BACKGROUND)


def test_a_background_is_kept_in_the_types_of_the_features(checkpoint: Path) -> None:
    kept = pyarrow.feather.read_table(checkpoint / "background.arrow")
    assert kept.schema.names == FEATURES
    assert kept.num_rows == 100
