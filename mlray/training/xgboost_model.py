"""Trees of XGBoost as the scorer of a model, kept in XGBoost's own format, UBJSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xgboost
from numpy.typing import NDArray

from mlray.training.design import Design
from mlray.training.preprocessing import Preprocessing
from mlray.training.task import Task

FILE = "model.ubj"


@dataclass(frozen=True, slots=True)
class BoosterScorer:
    """A trained booster and the matrix that it reads, float32. A row's predictions are the same bits alone and in a
    batch.
    """

    booster: xgboost.Booster
    design: Design
    task: Task
    model: str = "xgboost"

    @property
    def columns(self) -> tuple[str, ...]:
        return self.design.columns

    def scores(self, numbers: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n,) or (n, classes), see task.py."""
        if not len(numbers):
            return np.zeros((0, self.task.outputs) if self.task.outputs > 1 else 0)
        matrix = self.design.matrix(numbers, codes, np.float32)
        return np.asarray(self.booster.inplace_predict(matrix), np.float64)

    def save(self, directory: Path) -> dict[str, Any]:
        """Writes the trees; the same training gives the same bytes."""
        self.booster.save_model(directory / FILE)
        return {"xgboost": xgboost.__version__, "one_hot": self.design.one_hot}

    @classmethod
    def load(
        cls, directory: Path, saved: Mapping[str, Any], preprocessing: Preprocessing, task: Task, code: str | None
    ) -> Self:
        """The one that `save` wrote. XGBoost reads what any older version of it wrote."""
        del code
        booster = xgboost.Booster({"nthread": 1})
        try:
            booster.load_model(directory / FILE)
        except xgboost.core.XGBoostError as error:
            raise ValueError(f"{FILE} holds no trees: {str(error).splitlines()[0]}") from error
        return cls(booster, Design.of(preprocessing, one_hot=saved["one_hot"]), task)
