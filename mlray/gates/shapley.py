"""How SHAP values of a model are computed, by its kind; the best way first. What adds up and is about this model is for
`explainer` to find out.

    network of modules   Deep SHAP over numbers and embedded texts, then expected gradients, which are sampled: for
                         where a part of the network is no module (as a ReLU), which Deep SHAP does not see
    trees                TreeSHAP, exact
    anything else        permutations of the encoded columns
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlray.gates.extra import imported
from mlray.training.model import Model
from mlray.training.network import NetworkScorer
from mlray.training.preprocessing import Encoded
from mlray.training.task import BINARY

TOLERANCE: Mapping[str, float] = {"deep": 1e-6, "tree": 1e-3, "permutation": 1e-6, "gradient": 0.25}
"""By method, how far base and values may be from the output, as a share of the outputs' deviation."""
_DRAWS, _ROUNDS = 500, 10

Floats = NDArray[np.float64]
Read = Callable[[Encoded], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """columns: the feature behind each column of the values; base: (outputs,) what the model says of the background;
    values: of rows, (n, columns, outputs); outputs: of rows, (n, outputs), what base and values shall sum to.
    """

    name: str
    columns: tuple[str, ...]
    base: Floats
    values: Callable[[Encoded], Floats]
    outputs: Callable[[Encoded], Floats]


def methods(model: Model, background: Encoded) -> Iterator[Method]:
    """Those that there are for the model, the best first. None of them touches the model itself, which goes on scoring
    in other threads. ConfigError where the package is not installed.
    """
    shap, scorer = imported("shap", extra="explain", who="explaining a model"), model.scorer
    best: Iterator[Method] = iter(())
    if isinstance(scorer, NetworkScorer):
        best = _of_network(shap, model, scorer, background)
    elif hasattr(scorer, "booster"):
        best = _of_booster(scorer, background)
    elif hasattr(scorer, "estimator"):
        best = _of_estimator(shap, model, scorer)
    return chain(best, _permuted(shap, model, background))


def _of_network(shap: Any, model: Model, scorer: NetworkScorer, background: Encoded) -> Iterator[Method]:
    network: Any = copy.deepcopy(scorer.scoring().module).cpu()  # shap hangs hooks into it while it computes
    layers: nn.Module
    if _is_tabular(network, model):
        layers, read, columns = network.layers, _joined(network), (*_numbers(model), *_embedded(network, model))
    elif not model.preprocessing.texts:
        layers, read, columns = _Alone(network), _only_numbers, _numbers(model)
    else:
        return
    layers = _Labelled(layers, scorer.shift, scorer.scale)
    yield _deep(shap, layers, read, background, columns)
    yield _gradient(shap, layers, read, background, columns)


def _is_tabular(network: Any, model: Model) -> bool:
    """Whether it may be, as the shipped one, `layers` over the numbers beside embedded texts, one table for each."""
    layers, tables = getattr(network, "layers", None), getattr(network, "embeddings", None)
    if not isinstance(layers, nn.Sequential) or not isinstance(tables, nn.ModuleList):
        return False
    if len(tables) != len(model.preprocessing.texts) or not all(isinstance(table, nn.Embedding) for table in tables):
        return False
    width = len(_numbers(model)) + len(_embedded(network, model))
    return len(layers) > 0 and isinstance(layers[0], nn.Linear) and layers[0].in_features == width


def _embedded(network: Any, model: Model) -> tuple[str, ...]:
    """The text behind each column that the tables give."""
    pairs = zip(model.preprocessing.texts, network.embeddings, strict=True)
    return tuple(text.name for text, table in pairs for _ in range(table.embedding_dim))


def _joined(network: Any) -> Read:
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


class _Labelled(nn.Module):
    """The same, in the unit of a regression's label: a network is trained on standardised ones."""

    def __init__(self, layers: nn.Module, shift: float, scale: float) -> None:
        super().__init__()
        self.layers, self.shift, self.scale = layers, shift, scale

    def forward(self, given: Tensor) -> Tensor:
        found: Tensor = self.layers(given)
        return found * self.scale + self.shift


def _deep(shap: Any, layers: nn.Module, read: Read, background: Encoded, columns: tuple[str, ...]) -> Method:
    deep = shap.DeepExplainer(layers, read(background))
    return Method(
        name="deep",
        columns=columns,
        base=np.atleast_1d(np.asarray(deep.expected_value, np.float64)),
        values=lambda rows: np.asarray(deep.shap_values(read(rows), check_additivity=False), np.float64),
        outputs=lambda rows: _outputs(layers, read(rows)),
    )


def _gradient(shap: Any, layers: nn.Module, read: Read, background: Encoded, columns: tuple[str, ...]) -> Method:
    single = copy.deepcopy(layers).float()  # shap draws in float32
    gradients = shap.GradientExplainer(single, read(background).float())

    def values(rows: Encoded) -> Floats:
        return np.asarray(gradients.shap_values(read(rows).float(), nsamples=_DRAWS, rseed=0), np.float64)

    return Method(
        name="gradient",
        columns=columns,
        base=_outputs(layers, read(background)).mean(axis=0),
        values=values,
        outputs=lambda rows: _outputs(layers, read(rows)),
    )


def _outputs(layers: nn.Module, given: Tensor) -> Floats:
    with torch.inference_mode():
        return np.asarray(layers(given).reshape(len(given), -1).numpy(), np.float64)


def _of_booster(scorer: Any, background: Encoded) -> Iterator[Method]:
    """XGBoost's own TreeSHAP."""
    import xgboost  # the model is one of it

    def predicted(rows: Encoded, **what: bool) -> Floats:
        matrix = xgboost.DMatrix(scorer.design.matrix(rows.numbers, rows.codes, np.float32))
        return np.asarray(scorer.booster.predict(matrix, strict_shape=True, **what), np.float64)

    yield Method(
        name="tree",
        columns=tuple(scorer.columns),
        base=predicted(background, pred_contribs=True)[0, :, -1],
        values=lambda rows: np.moveaxis(predicted(rows, pred_contribs=True)[:, :, :-1], 1, 2),
        outputs=lambda rows: predicted(rows, output_margin=True),
    )


def _of_estimator(shap: Any, model: Model, scorer: Any) -> Iterator[Method]:
    """TreeSHAP where shap knows the trees. Of two classes, of the second one."""
    invalid = imported("shap.utils._exceptions", extra="explain", who="explaining a model").InvalidModelError
    try:
        trees = shap.TreeExplainer(scorer.estimator)
    except (invalid, NotImplementedError):  # no trees, or none that shap reads
        return

    def kept(found: Any) -> Floats:
        every = np.asarray(found, np.float64)
        return every[..., 1:] if model.task.kind == BINARY and every.shape[-1] == 2 else every

    def values(rows: Encoded) -> Floats:
        found = np.asarray(trees.shap_values(scorer.design.matrix(rows.numbers, rows.codes), check_additivity=False))
        return kept(found[:, :, np.newaxis] if found.ndim == 2 else found)

    def outputs(rows: Encoded) -> Floats:
        found = trees.model.predict(scorer.design.matrix(rows.numbers, rows.codes))
        return kept(np.asarray(found).reshape(len(rows.numbers), -1))

    base = kept(np.atleast_1d(np.asarray(trees.expected_value)))
    yield Method(name="tree", columns=tuple(scorer.columns), base=base, values=values, outputs=outputs)


def _permuted(shap: Any, model: Model, background: Encoded) -> Iterator[Method]:
    """Of the predictions, by permutations of numbers and codes; each permutation adds up by itself."""
    width = background.numbers.shape[1]

    def predict(matrix: Floats) -> Floats:
        numbers, codes = matrix[:, :width].astype(np.float32), np.rint(matrix[:, width:]).astype(np.int32)
        found: Floats = model.scorer.scores(numbers, codes)
        return found.reshape(len(matrix), -1)

    known = _matrix(background)
    explainer = shap.explainers.Permutation(predict, shap.maskers.Independent(known, max_samples=len(known)), seed=0)

    def values(rows: Encoded) -> Floats:
        matrix = _matrix(rows)
        found = explainer(matrix, max_evals=_ROUNDS * (2 * matrix.shape[1] + 1), silent=True)
        return np.asarray(found.values, np.float64).reshape(*matrix.shape, -1)

    yield Method(
        name="permutation",
        columns=(*_numbers(model), *(text.name for text in model.preprocessing.texts)),
        base=predict(known).mean(axis=0),
        values=values,
        outputs=lambda rows: predict(_matrix(rows)),
    )


def _numbers(model: Model) -> tuple[str, ...]:
    return tuple(model.preprocessing.column_names())


def _matrix(rows: Encoded) -> Floats:
    return np.concatenate([rows.numbers, rows.codes], axis=1, dtype=np.float64)
