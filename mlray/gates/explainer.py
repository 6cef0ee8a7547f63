"""SHAP values of a model, per feature of the service.

    network of modules   Deep SHAP over numbers and embedded texts; where the network does not follow its rules (a ReLU
                         that is no module), expected gradients, which are sampled
    trees                TreeSHAP, exact
    anything else        permutations of the encoded columns

What a column of the model's input adds, an embedding's or a one-hot one's, counts for the feature that it comes from.
Values and base are in the unit of what is explained: the network's or the trees' own outputs (log-odds of a
classifier), else the predictions. Base and values of a row sum to its output.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import feather
from torch import Tensor, nn

from mlray.errors import UnknownName
from mlray.gates.extra import imported
from mlray.training.model import Model
from mlray.training.preprocessing import Encoded

BACKGROUND_FILE = "background.arrow"
TOLERANCE: Mapping[str, float] = {"deep": 1e-6, "tree": 1e-3, "permutation": 1e-6, "gradient": 0.25}
"""How far base and values may be from the output, as a share of the outputs' standard deviation (at least 1)."""
_DRAWS, _ROUNDS = 500, 10

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """features: names; values: (n, features, outputs); base: (outputs,); outputs: (n, outputs) of the model."""

    method: str
    features: tuple[str, ...]
    values: Floats
    base: Floats
    outputs: Floats

    @property
    def error(self) -> float:
        """The largest |base + sum of values - output| of a row, as a share of the outputs' deviation (at least 1)."""
        gaps = np.abs(self.base + self.values.sum(axis=1) - self.outputs)
        return float(gaps.max(initial=0.0) / max(1.0, float(self.outputs.std()) if self.outputs.size else 1.0))

    def importance(self, rows: Any = slice(None)) -> dict[str, float]:
        """Mean |value| per feature, over rows and outputs, the largest first."""
        mean = np.abs(self.values[rows]).mean(axis=(0, 2))
        order = sorted(range(len(self.features)), key=lambda i: (-mean[i], self.features[i]))
        return {self.features[i]: float(mean[i]) for i in order}


@dataclass(frozen=True, slots=True)
class _Method:
    """columns: the feature behind each column of the values; compute: rows to values (n, columns, outputs), base and
    outputs.
    """

    name: str
    columns: tuple[str, ...]
    compute: Callable[[Encoded], tuple[Floats, Floats, Floats]]


class Explainer:
    """Explains rows of one model, beside the rows of `background`: what the model says where a feature is not known."""

    def __init__(self, model: Model, background: pa.Table) -> None:
        self._model = model
        shap = imported("shap", extra="explain", who="explaining a model")
        self._method = _method(shap, model, model.preprocessing.encode(background))
        place = {name: i for i, name in enumerate(model.features)}
        self._column = [place[name] for name in self._method.columns]

    @classmethod
    def of(cls, model: Model, checkpoint: str | Path) -> "Explainer":
        """With the background that the run kept in its checkpoint; UnknownName where it kept none."""
        path = Path(checkpoint, BACKGROUND_FILE)
        if not path.exists():
            raise UnknownName(f"there is no {BACKGROUND_FILE} in {checkpoint}: train with [gates.explanation]")
        return cls(model, feather.read_table(path))

    def explain(self, rows: pa.Table) -> Explanation:
        """Of feature vectors, as `Model.predict` takes them."""
        values, base, outputs = self._method.compute(self._model.preprocessing.encode(rows))
        summed = np.zeros((len(outputs), len(self._model.features), outputs.shape[1]))
        for column, place in enumerate(self._column):
            summed[:, place] += values[:, column]
        return Explanation(
            method=self._method.name,
            features=self._model.features,
            values=summed,
            base=base,
            outputs=outputs,
        )


def _method(shap: Any, model: Model, background: Encoded) -> _Method:
    scorer = model.scorer
    if hasattr(scorer, "booster"):
        return _of_booster(model)
    if hasattr(scorer, "estimator"):
        return _of_estimator(shap, model, background)
    network: Any = model.network
    if isinstance(getattr(network, "layers", None), nn.Sequential) and hasattr(network, "embeddings"):
        names = [
            text.name
            for text, table in zip(model.preprocessing.texts, network.embeddings, strict=True)
            for _ in range(table.embedding_dim)
        ]
        return _of_network(shap, network.layers, _joined(network), background, (*_numbers(model), *names))
    if not model.preprocessing.texts:
        return _of_network(shap, _Alone(network), _only_numbers, background, _numbers(model))
    return _permuted(shap, model, background)


def _numbers(model: Model) -> tuple[str, ...]:
    return tuple(model.preprocessing.column_names())


def _joined(network: Any) -> Callable[[Encoded], Tensor]:
    """What the layers read: the numbers beside the embedded texts."""

    def join(rows: Encoded) -> Tensor:
        codes = torch.from_numpy(np.asarray(rows.codes, np.int64))
        embedded = [table(codes[:, i]).detach() for i, table in enumerate(network.embeddings)]
        return torch.cat([_only_numbers(rows), *embedded], dim=1)

    return join


def _only_numbers(rows: Encoded) -> Tensor:
    return torch.from_numpy(np.asarray(rows.numbers, np.float64))


class _Alone(nn.Module):
    """A network that reads no texts, as a function of the numbers, (n, outputs)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, numbers: Tensor) -> Tensor:
        found: Tensor = self.network(numbers, torch.zeros((len(numbers), 0), dtype=torch.int64))
        return found.reshape(len(numbers), -1)


def _of_network(
    shap: Any, layers: nn.Module, read: Callable[[Encoded], Tensor], background: Encoded, columns: tuple[str, ...]
) -> _Method:
    """Deep SHAP, or expected gradients where it does not add up on the background itself."""
    known = read(background)
    deep = shap.DeepExplainer(layers, known)

    def compute(rows: Encoded) -> tuple[Floats, Floats, Floats]:
        given = read(rows)
        values = np.asarray(deep.shap_values(given, check_additivity=False), np.float64)
        return values, np.atleast_1d(np.asarray(deep.expected_value, np.float64)), _outputs(layers, given)

    values, base, outputs = compute(background)
    if np.abs(base + values.sum(axis=1) - outputs).max() <= TOLERANCE["deep"] * max(1.0, float(outputs.std())):
        return _Method("deep", columns, compute)
    return _by_gradients(shap, layers, read, known, columns)


def _by_gradients(
    shap: Any, layers: nn.Module, read: Callable[[Encoded], Tensor], known: Tensor, columns: tuple[str, ...]
) -> _Method:
    single = copy.deepcopy(layers).float()  # shap draws in float32
    base = _outputs(layers, known).mean(axis=0)
    gradients = shap.GradientExplainer(single, known.float())

    def compute(rows: Encoded) -> tuple[Floats, Floats, Floats]:
        given = read(rows)
        values = np.asarray(gradients.shap_values(given.float(), nsamples=_DRAWS, rseed=0), np.float64)
        return values, base, _outputs(layers, given)

    return _Method("gradient", columns, compute)


def _outputs(layers: nn.Module, given: Tensor) -> Floats:
    with torch.inference_mode():
        return np.asarray(layers(given).reshape(len(given), -1).numpy(), np.float64)


def _of_booster(model: Model) -> _Method:
    """XGBoost's own TreeSHAP."""
    import xgboost  # the model is one of it

    scorer: Any = model.scorer

    def compute(rows: Encoded) -> tuple[Floats, Floats, Floats]:
        matrix = xgboost.DMatrix(scorer.design.matrix(rows.numbers, rows.codes, np.float32))
        found = np.asarray(scorer.booster.predict(matrix, pred_contribs=True, strict_shape=True), np.float64)
        outputs = np.asarray(scorer.booster.predict(matrix, output_margin=True, strict_shape=True), np.float64)
        values = np.moveaxis(found[:, :, :-1], 1, 2)
        return values, found[0, :, -1] if len(found) else np.zeros(found.shape[1]), outputs

    return _Method("tree", tuple(scorer.columns), compute)


def _of_estimator(shap: Any, model: Model, background: Encoded) -> _Method:
    """TreeSHAP where shap knows the trees."""
    scorer: Any = model.scorer
    try:
        trees = shap.TreeExplainer(scorer.estimator)
    except Exception as error:
        if "not" not in str(error).lower():
            raise
        return _permuted(shap, model, background)

    def compute(rows: Encoded) -> tuple[Floats, Floats, Floats]:
        matrix = scorer.design.matrix(rows.numbers, rows.codes)
        values = np.asarray(trees.shap_values(matrix, check_additivity=False), np.float64)
        values = values[:, :, np.newaxis] if values.ndim == 2 else values
        base = np.atleast_1d(np.asarray(trees.expected_value, np.float64))
        outputs = np.asarray(trees.model.predict(matrix), np.float64).reshape(len(matrix), -1)
        return values, base, outputs

    return _Method("tree", tuple(scorer.columns), compute)


def _permuted(shap: Any, model: Model, background: Encoded) -> _Method:
    """Of the predictions, by permutations of numbers and codes; each permutation adds up by itself."""
    width = background.numbers.shape[1]

    def predict(matrix: Floats) -> Floats:
        numbers, codes = matrix[:, :width].astype(np.float32), np.rint(matrix[:, width:]).astype(np.int32)
        found: Floats = model.scorer.scores(numbers, codes)
        return found.reshape(len(matrix), -1)

    known = _matrix(background)
    explainer = shap.explainers.Permutation(predict, shap.maskers.Independent(known, max_samples=len(known)), seed=0)
    base = predict(known).mean(axis=0)

    def compute(rows: Encoded) -> tuple[Floats, Floats, Floats]:
        matrix = _matrix(rows)
        found = explainer(matrix, max_evals=_ROUNDS * (2 * matrix.shape[1] + 1), silent=True)
        return np.asarray(found.values, np.float64).reshape(*matrix.shape, -1), base, predict(matrix)

    names = tuple(text.name for text in model.preprocessing.texts)
    return _Method("permutation", (*_numbers(model), *names), compute)


def _matrix(rows: Encoded) -> Floats:
    return np.concatenate([rows.numbers, rows.codes], axis=1, dtype=np.float64)
