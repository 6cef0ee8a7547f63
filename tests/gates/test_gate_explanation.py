"""Explanations: what the features add sums to what the model said; a request is explained from the checkpoint alone."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from mlray.errors import ConfigError, UnknownName
from mlray.gates.explainer import Explainer
from mlray.gates.explanation import explain, explain_model, write_explanation
from mlray.gates.settings import Explanation
from mlray.training.model import Model, load_model
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


def test_base_and_values_of_a_row_sum_to_the_models_output(model: Model) -> None:
    found = Explainer(model, BACKGROUND).explain(ROWS)
    assert (found.method, found.features, found.values.shape) == ("deep", tuple(FEATURES), (300, 5, 1))
    log_odds = found.base + found.values.sum(axis=1)[:, 0]
    assert 1 / (1 + np.exp(-log_odds)) == pytest.approx(model.predict(ROWS), abs=1e-9)


def test_what_an_embedding_and_an_indicator_add_counts_for_their_feature(model: Model) -> None:
    #  the label depends on amount, on country and on whether rate is missing; see tests/training/made.py
    found = Explainer(model, BACKGROUND).explain(ROWS)
    assert set(list(found.importance())[:3]) == {"amount", "country", "rate"}
    missing = np.isnan(ROWS.column("rate").to_numpy())
    rate = found.values[:, found.features.index("rate"), 0]
    assert rate[missing].mean() < rate[~missing].mean()


def test_the_gate_says_how_nearly_they_add_up_and_tells_each_slice(model: Model) -> None:
    result = explain_model(model, BACKGROUND, ROWS, Explanation(slices=("country",)))
    assert result.passed
    assert result.value is not None
    assert result.value < 1e-9
    lines = result.details["slices"]
    assert sum(line["rows"] for line in lines) == 300
    assert {line["slice"] for line in lines} == {"DE", "FR", "PT", "(missing)"}


def test_a_request_is_explained_from_the_checkpoint_alone(model: Model, checkpoint: Path) -> None:
    result = explain_model(model, BACKGROUND, ROWS, Explanation())
    with pytest.raises(UnknownName, match=r"train with \[gates.explanation\]"):
        explain(checkpoint, ROWS.to_pylist()[0])
    write_explanation(checkpoint, result, BACKGROUND, FEATURES)
    row = ROWS.select(FEATURES).to_pylist()[0]
    found = explain(checkpoint, row)
    assert set(found["features"]) == set(FEATURES)
    assert found["base"] + sum(found["features"].values()) == pytest.approx(found["output"])


class Functional(nn.Module):
    """A network whose ReLU is no module: Deep SHAP does not see it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, 16), nn.Linear(16, 1)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:  # noqa: ARG002
        return self.last(torch.relu(self.first(numbers))).squeeze(1)


def test_where_deep_shap_does_not_add_up_gradients_are_taken(model: Model) -> None:
    torch.manual_seed(0)
    alone = without_texts(model, Functional(model.preprocessing.width).double().eval())
    found = Explainer(alone, BACKGROUND).explain(ROWS.slice(0, 10))
    assert found.method == "gradient"
    assert 0 < found.error < 0.25


def without_texts(model: Model, network: Any) -> Any:
    from dataclasses import replace

    signature = replace(model.signature, inputs={k: v for k, v in model.signature.inputs.items() if k != "country"})
    return Model(network, replace(model.preprocessing, texts=()), signature)


def test_without_the_package_the_error_names_the_extra(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlray\[explain\]'"):
        Explainer(model, BACKGROUND)


def test_a_background_is_kept_in_the_types_of_the_features(checkpoint: Path) -> None:
    kept = pa.feather.read_table(checkpoint / "background.arrow")
    assert kept.schema.names == FEATURES
    assert kept.num_rows == 100
