"""A trained model of any kind, with all that is needed to feed it; and its directory.

model.json           kind, class, settings            preprocessing.json   see preprocessing.py
model.safetensors    weights of a network, float32    signature.json       inputs (name -> type), label, output, task,
model.skops          a scikit-learn estimator                              classes, class and digest of its code
model.ubj            trees of XGBoost

Nothing is pickled: reading a directory runs no code of it. A network's class is imported by its path.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import nn

from mlray.errors import ConfigError, CorruptArtifact, MlrayError
from mlray.training.network import NetworkScorer
from mlray.training.preprocessing import Preprocessing
from mlray.training.task import Task

MODEL_FILES = ("model.safetensors", "model.json", "preprocessing.json", "signature.json")
"""Of a network."""

_LOADED_BY: Mapping[str, str] = {
    "network": "mlray.training.network:NetworkScorer",
    "sklearn": "mlray.training.sklearn_model:SklearnScorer",
    "xgboost": "mlray.training.xgboost_model:BoosterScorer",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What the model takes and gives: feature name -> Arrow type as text, in service order.

    task, classes: see task.py. model: the network's name or path, or the estimator's; code_sha256: of the file that a
    user's own stands in.
    """

    inputs: dict[str, str]
    label: str
    output: str = "probability: double"
    task: str = "binary"
    classes: tuple[str, ...] = ()
    model: str = "mlp"
    code_sha256: str | None = None

    @classmethod
    def of(
        cls, inputs: Mapping[str, str], label: str, task: Task, *, model: str, code_sha256: str | None = None
    ) -> "Signature":
        return cls(
            inputs=dict(inputs),
            label=label,
            output=task.output,
            task=task.kind,
            classes=task.classes,
            model=model,
            code_sha256=code_sha256,
        )

    @property
    def known_task(self) -> Task:
        return Task(kind=self.task, classes=self.classes)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Signature":
        return cls(**{**plain, "classes": tuple(plain.get("classes", ()))})


class Scorer(Protocol):
    """What turns encoded rows into predictions: the part of a model that was trained."""

    @property
    def model(self) -> str:
        """The name or path by which it was asked for."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature behind each column of what the scorer reads."""

    def scores(self, numbers: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n,) or (n, classes) predictions, see task.py; a row's do not depend on its neighbours."""

    def save(self, directory: Path) -> dict[str, Any]:
        """Writes its own file; what is needed besides to load it again, as JSON."""


@dataclass(frozen=True, slots=True)
class Model:
    """A trained scorer, the preprocessing before it, and what it takes and gives."""

    scorer: Scorer
    preprocessing: Preprocessing
    signature: Signature

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.signature.inputs)

    @property
    def task(self) -> Task:
        return self.signature.known_task

    @property
    def network(self) -> nn.Module:
        """Of a model that is one."""
        assert isinstance(self.scorer, NetworkScorer), f"'{self.scorer.model}' is no network"
        return self.scorer.module

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature behind each column of what the scorer reads."""
        return self.scorer.columns

    def predict(self, table: pa.Table) -> NDArray[np.float64]:
        """(n,) probabilities of label 1 or values, or (n, classes) probabilities, in row order; columns beyond
        `features` are ignored. A row alone and in a batch agree within 1e-12, of trees to the bit.
        """
        encoded = self.preprocessing.encode(table)
        return self.scorer.scores(encoded.numbers, encoded.codes)

    def save(self, directory: str | Path) -> None:
        """Writes the four files; the directory is made where it is missing."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        kind = next(kind for kind, place in _LOADED_BY.items() if place.endswith(f":{type(self.scorer).__name__}"))
        shape = {"width": self.preprocessing.width, "sizes": self.preprocessing.sizes}
        write_json(path / "model.json", {"kind": kind, "class": self.scorer.model, **shape, **self.scorer.save(path)})
        self.preprocessing.save(path / "preprocessing.json")
        write_json(path / "signature.json", asdict(self.signature))


def load_model(directory: str | Path) -> Model:
    """The model saved in `directory`. CorruptArtifact where a file is missing, torn or of another model; ConfigError
    where code that it needs is not installed, DefinitionChanged where that is not the code it was trained with.
    """
    path = Path(directory)
    preprocessing = Preprocessing.load(path / "preprocessing.json")
    try:
        saved = read_json(path / "model.json")
        signature = Signature.from_json(read_json(path / "signature.json"))
        if (preprocessing.width, preprocessing.sizes) != (saved["width"], tuple(saved["sizes"])):
            raise CorruptArtifact(f"{path}: preprocessing.json and model.json are not of one model; restore it")
        module, _, name = _LOADED_BY[saved["kind"]].partition(":")
        loader = getattr(importlib.import_module(module), name)
        scorer: Scorer = loader.load(path, saved, preprocessing, signature.known_task, signature.code_sha256)
    except MlrayError:
        raise
    except ModuleNotFoundError as error:
        needed = f"which needs a package: pip install 'mlray[{saved['kind']}]' ({error})"
        raise ConfigError(f"{path} holds a model of {saved['kind']}, {needed}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, BadZipFile) as error:
        raise CorruptArtifact(f"{path} does not hold a model of this version ({error!r}); restore it") from error
    return Model(scorer, preprocessing, signature)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
