"""Any scikit-learn classifier or regressor, fitted on the training part as one Ray task.

The rows come in the order of their content (see feed.py), so the same data, settings and seed give the same estimator:
its predictions are the same to the bit, while the bytes of its file are not (skops writes addresses of objects there).
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from mlray._ray_compat import mlray_errors
from mlray.errors import ConfigError, TrainingFailed
from mlray.training.checkpoint import RunDirectory, commit
from mlray.training.design import Design
from mlray.training.feed import Part
from mlray.training.launch import TrainingData, begin, finished, tracking
from mlray.training.model import Model, Signature
from mlray.training.preprocessing import Preprocessing
from mlray.training.run import Run
from mlray.training.tabular import TabularConfig, matrix_of, scores_of
from mlray.training.task import REGRESSION
from mlray.training.values import require

GB = 1 << 30


class SklearnTrainer:
    """Trains one estimator; see `Config`."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TabularConfig):
        """model: module:Class of an estimator, or module:function that makes one, called with `arguments`. cpus:
        logical CPUs of the task; arguments such as n_jobs are the estimator's. max_gb: of the matrix, 8 bytes a number;
        fitting takes some times as much memory.
        """

        model: str
        cpus: float = 1.0
        max_gb: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.cpus > 0, "cpus", self.cpus, "more than 0")
            require(self.max_gb > 0, "max_gb", self.max_gb, "more than 0")

        def outcome(self) -> dict[str, Any]:
            return {key: value for key, value in super().outcome().items() if key not in ("cpus", "max_gb")}


def train(config: SklearnTrainer.Config, ts: TrainingData) -> Run:
    """Fits on the training part, and scores on the others. TrainingFailed where the estimator refuses the data, or the
    training part is larger than `max_gb`; ConfigError without the extra 'sklearn'.
    """
    check_cpus(config, ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
    begun = begin(config, ts, model=config.model, task=check(config))
    parts = begun.prepared.parts
    check_size(config, parts["train"].rows, len(design_of(config, begun.prepared.preprocessing).columns))
    task, published = fit_task.options(num_cpus=config.cpus), begun.directory.model
    with tracking(begun, config, tuple) as tracker:
        with mlray_errors():
            ray.get(task.remote(config, begun.prepared.preprocessing, begun.signature, parts["train"], published))
        return finished(begun, config, ts, scores_of(published, parts), (), tracker)


def check(config: SklearnTrainer.Config) -> str | None:
    """The kind of task that the estimator is for, None where the label's type says. ConfigError where it cannot be
    made.
    """
    try:
        from sklearn.base import is_regressor

        from mlray.training.sklearn_model import estimator_of
    except ImportError as error:
        raise ConfigError(f"SklearnTrainer needs a package: pip install 'mlray[sklearn]' ({error})") from error
    if is_regressor(estimator_of(config.model, config.arguments, config.seed)):
        require(config.task in (None, REGRESSION), "task", config.task, f"'{REGRESSION}': '{config.model}' is for that")
        return REGRESSION
    require(config.task != REGRESSION, "task", config.task, f"of classes: '{config.model}' is a classifier")
    return config.task


def check_cpus(config: SklearnTrainer.Config, have: float) -> None:
    """ConfigError where the task would wait for ever."""
    if config.cpus > have:
        raise ConfigError(
            f"training: cpus={config.cpus:g} is what the fit asks for and the cluster has {have:g}; lower cpus, or "
            "start Ray with more num_cpus"
        )


def check_size(config: SklearnTrainer.Config, rows: int, columns: int) -> None:
    """TrainingFailed where the matrix would be larger than `max_gb`."""
    needed = rows * columns * 8 / GB
    if needed > config.max_gb:
        raise TrainingFailed(
            f"training: {rows} rows of {columns} columns are {needed:.3g} GB, which one task would hold, and max_gb is "
            f"{config.max_gb:g}; raise it, take fewer rows, features or categories (max_categories, one_hot), or train "
            "with XGBoost or a network, whose workers share the rows"
        )


def design_of(config: SklearnTrainer.Config, preprocessing: Preprocessing) -> Design:
    return Design.of(preprocessing, one_hot=config.one_hot)


def fitted(config: SklearnTrainer.Config, preprocessing: Preprocessing, signature: Signature, part: Part) -> Model:
    """The model of a part, fitted in this process."""
    from mlray.training.sklearn_model import SklearnScorer, estimator_of

    design, blocks = design_of(config, preprocessing), list(part.stream())
    matrix, labels = matrix_of(blocks, design, np.float64), np.concatenate([rows.labels for rows in blocks])
    weights = np.concatenate([rows.weights for rows in blocks])
    del blocks
    estimator = estimator_of(config.model, config.arguments, config.seed)
    given = {"sample_weight": weights} if config.class_weights or config.weight else {}
    try:
        estimator.fit(matrix, labels if signature.task == REGRESSION else labels.astype(np.int64), **given)
    except (ValueError, TypeError) as error:
        raise TrainingFailed(f"'{config.model}' cannot be fitted to {len(labels)} rows: {error}") from error
    return Model(SklearnScorer(config.model, estimator, design, signature.known_task), preprocessing, signature)


@ray.remote
def fit_task(
    config: SklearnTrainer.Config, preprocessing: Preprocessing, signature: Signature, part: Part, directory: Path
) -> None:
    run = RunDirectory(directory.parent)
    if not run.is_seen():
        raise run.unseen()
    model = fitted(config, preprocessing, signature, part)
    shutil.rmtree(directory, ignore_errors=True)
    commit(directory, model.save)
