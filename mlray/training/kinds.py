"""One way to train, whatever the model: the configuration says which trainer it is for."""

from collections.abc import Mapping
from typing import Any

from mlray.errors import ConfigError
from mlray.training import launch, sklearn_trainer, xgboost_trainer
from mlray.training.imported import imported
from mlray.training.launch import TrainingData
from mlray.training.network import SHIPPED
from mlray.training.progress import OnEpoch, OnStatus, log_epoch
from mlray.training.run import Run
from mlray.training.sklearn_trainer import SklearnTrainer
from mlray.training.trainer import Trainer
from mlray.training.xgboost_trainer import XGBoostTrainer

Config = Trainer.Config | SklearnTrainer.Config | XGBoostTrainer.Config


def train(
    config: Config, ts: TrainingData, *, on_epoch: OnEpoch | None = None, on_status: OnStatus | None = None
) -> Run:
    """Trains on the training set as the configuration says. on_epoch: told of each epoch, or round of trees; on_status:
    see launch.py.
    """
    if isinstance(config, SklearnTrainer.Config):
        return sklearn_trainer.train(config, ts)
    if isinstance(config, XGBoostTrainer.Config):
        return xgboost_trainer.train(config, ts, on_epoch=on_epoch or log_epoch)
    return launch.train(config, ts, on_epoch=on_epoch, on_status=on_status)


def config_of(settings: Mapping[str, Any]) -> Config:
    """The configuration of a table of settings, as [training] of a recipe: `model` says of which trainer.

    "mlp" or nothing: the shipped network. "xgboost": trees. module:attribute: a network, where it has `build`, else a
    scikit-learn estimator or a function that makes one.
    """
    model = settings.get("model", "mlp")
    if model == "xgboost":
        return XGBoostTrainer.Config.from_json(settings)
    if ":" not in str(model) and model not in SHIPPED:
        known = ", ".join(f"'{name}'" for name in (*SHIPPED, "xgboost"))
        raise ConfigError(f"training: model is {model!r}; it must be {known} or module:attribute")
    if model in SHIPPED or hasattr(imported(str(model), "training: the model"), "build"):
        return Trainer.Config.from_json(settings)
    return SklearnTrainer.Config.from_json(settings)
