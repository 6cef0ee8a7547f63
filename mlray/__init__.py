"""A feature store, a training loop and a model registry that are one system, on Ray.

The law: a training row as of time t equals, bit for bit, what online serving would have answered at t.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlray.aggregation.count import Count
from mlray.aggregation.distinct import CountDistinct, LastDistinctN
from mlray.aggregation.extreme import Max, Min
from mlray.aggregation.position import First, FirstN, Last, LastN
from mlray.aggregation.quantile import Median, Quantile
from mlray.aggregation.share import Share
from mlray.aggregation.total import Mean, Sum
from mlray.aggregation.variance import Std, Var
from mlray.aggregation.window import days, hours, lifetime, minutes
from mlray.errors import MlrayError, NotApproved
from mlray.features.entity import Entity
from mlray.features.on_demand import on_demand
from mlray.features.service import FeatureService
from mlray.features.source import DeltaSource, RequestSource
from mlray.features.view import FeatureView

if TYPE_CHECKING:
    from mlray.gates.settings import Gates
    from mlray.platform import Platform, connect
    from mlray.settings import Settings
    from mlray.training.sklearn_trainer import SklearnTrainer
    from mlray.training.trainer import Trainer
    from mlray.training.xgboost_trainer import XGBoostTrainer

__all__ = [
    "Count",
    "CountDistinct",
    "DeltaSource",
    "Entity",
    "FeatureService",
    "FeatureView",
    "First",
    "FirstN",
    "Gates",
    "Last",
    "LastDistinctN",
    "LastN",
    "Max",
    "Mean",
    "Median",
    "Min",
    "MlrayError",
    "NotApproved",
    "Platform",
    "Quantile",
    "RequestSource",
    "Settings",
    "Share",
    "SklearnTrainer",
    "Std",
    "Sum",
    "Trainer",
    "Var",
    "XGBoostTrainer",
    "connect",
    "days",
    "hours",
    "lifetime",
    "minutes",
    "on_demand",
]

# Named here, imported when first used: they bring Arrow, Ray and torch, which a declaration does not need.
_LATER = {
    "Gates": "mlray.gates.settings",
    "Platform": "mlray.platform",
    "Settings": "mlray.settings",
    "connect": "mlray.platform",
    "SklearnTrainer": "mlray.training.sklearn_trainer",
    "Trainer": "mlray.training.trainer",
    "XGBoostTrainer": "mlray.training.xgboost_trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'mlray' has no attribute '{name}'")
    return getattr(import_module(_LATER[name]), name)
