"""A scikit-learn estimator as the scorer of a model, kept in skops' format: no pickle, only types that are known."""

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import sklearn
import skops.io
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import InconsistentVersionWarning

from mlray.errors import ConfigError, CorruptArtifact, DefinitionChanged, TrainingFailed
from mlray.training.design import Design
from mlray.training.imported import imported
from mlray.training.preprocessing import Preprocessing
from mlray.training.task import BINARY, REGRESSION, Task

FILE = "model.skops"
TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""What scikit-learn's own estimators consist of besides what skops trusts: each holds numbers, and runs no code that it
is given. A file with any other type is refused, when it is written and when it is read.
"""


def estimator_of(model: str, arguments: Mapping[str, Any], seed: int) -> Any:
    """A new estimator: a class by module:Class, or a function that makes one, with its arguments. `random_state` is the
    seed where it has one and none is given. ConfigError where it cannot be made, or is no classifier or regressor.
    """
    made_of = imported(model, "training: the estimator")
    try:
        made = made_of(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(made_of).parameters)
        raise ConfigError(f"training: '{model}' takes {known}; it was given {dict(arguments)}: {error}") from error
    if not (is_classifier(made) or is_regressor(made)):
        raise ConfigError(f"training: '{model}' gives a {type(made).__name__}, which is no classifier and no regressor")
    if is_classifier(made) and not hasattr(made, "predict_proba"):
        raise ConfigError(
            f"training: '{model}' gives no probabilities; take an estimator with predict_proba, or a function that "
            "wraps this one in sklearn.calibration.CalibratedClassifierCV"
        )
    random = {name for name in made.get_params() if name == "random_state" or name.endswith("__random_state")}
    made.set_params(**{name: seed for name in random if name not in arguments})
    return made


@dataclass(frozen=True, slots=True)
class SklearnScorer:
    """A fitted estimator and the matrix that it reads, float64."""

    model: str
    estimator: Any
    design: Design
    task: Task

    @property
    def columns(self) -> tuple[str, ...]:
        return self.design.columns

    def scores(self, numbers: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n,) or (n, classes), see task.py."""
        if not len(numbers):
            return np.zeros((0, self.task.outputs) if self.task.outputs > 1 else 0)
        matrix = self.design.matrix(numbers, codes)
        if self.task.kind == REGRESSION:
            return np.asarray(self.estimator.predict(matrix), np.float64).reshape(len(matrix))
        found = np.asarray(self.estimator.predict_proba(matrix), np.float64)
        return np.ascontiguousarray(found[:, 1]) if self.task.kind == BINARY else found

    def save(self, directory: Path) -> dict[str, Any]:
        """Writes the estimator. TrainingFailed where it has a type that would be refused at reading it."""
        unknown = untrusted(data := skops.io.dumps(self.estimator))
        if unknown:
            raise TrainingFailed(
                f"'{self.model}' cannot be kept: it holds {', '.join(unknown)}, and a model is read back only where "
                "all its types are known to run no code; choose another estimator"
            )
        (directory / FILE).write_bytes(data)
        return {"sklearn": sklearn.__version__, "one_hot": self.design.one_hot}

    @classmethod
    def load(
        cls, directory: Path, saved: Mapping[str, Any], preprocessing: Preprocessing, task: Task, code: str | None
    ) -> Self:
        """The one that `save` wrote. CorruptArtifact names the types that are not trusted; DefinitionChanged where
        scikit-learn is another one than in training, to the minor version. No code of a user's is needed.
        """
        del code
        if _minor(saved["sklearn"]) != _minor(sklearn.__version__):
            raise DefinitionChanged(
                f"{directory}: trained with scikit-learn {saved['sklearn']}, this is {sklearn.__version__}; install "
                f"scikit-learn {_minor(saved['sklearn'])}, or train again"
            )
        data = (directory / FILE).read_bytes()
        unknown = untrusted(data)
        if unknown:
            raise CorruptArtifact(
                f"{directory / FILE} holds types that are not trusted: {', '.join(unknown)}; mlray did not write it"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InconsistentVersionWarning)  # of a patch version
            estimator = skops.io.loads(data, trusted=list(TRUSTED))
        design = Design.of(preprocessing, one_hot=saved["one_hot"])
        return cls(saved["class"], estimator, design, task)


def untrusted(data: bytes) -> list[str]:
    """The types in a skops file that neither skops nor TRUSTED knows."""
    return sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
