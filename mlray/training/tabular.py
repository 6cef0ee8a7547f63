"""What trainings of scikit-learn and XGBoost share: their settings, their matrix, and the scores of what they made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from numpy.typing import NDArray

from mlray._ray_compat import mlray_errors
from mlray.errors import ConfigError
from mlray.training.config import Gates, Sampling, Split, Tracking
from mlray.training.design import Design
from mlray.training.feed import Part, Rows
from mlray.training.model import Model, load_model
from mlray.training.task import check_kind
from mlray.training.values import check_place, plain, require, section

WITHOUT_EFFECT = ("storage", "run", "tracking", "allow_null")
"""Settings that do not change what comes out; each kind has more."""


@dataclass(frozen=True, kw_only=True)
class TabularConfig:
    """split, storage, run, seed, tracking: as of `Trainer.Config`.

    task            "binary", "multiclass" or "regression"; None: what the estimator and the label's type say
    one_hot         whether a text feature is a column of 0 and 1 for each of its categories, or one of codes
    class_weights   a weight per class, or "balanced"     weight          a column of weights of rows; no feature
    ignore          features that the model does not read allow_null      those that may be null in every training row
    max_categories  of a text feature; the others count as unseen
    min_auc         of a binary model on the test rows; below it the gate 'evaluation' fails
    """

    split: Split
    storage: str
    run: str | None = None
    seed: int = 0
    task: str | None = None
    one_hot: bool = False
    class_weights: str | Mapping[str, float] | None = None
    weight: str | None = None
    ignore: tuple[str, ...] = ()
    allow_null: tuple[str, ...] = ()
    max_categories: int = 10_000
    min_auc: float = 0.5
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tracking: Tracking = field(default_factory=Tracking)

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", Split.of(self.split))
        for name in ("ignore", "allow_null"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.tracking, Mapping):
            object.__setattr__(self, "tracking", section(Tracking, self.tracking))
        if self.task is not None:
            check_kind(self.task)
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 or more, below 2**31")
        check_place(self.storage, self.run)
        self.sampling, self.gates  # noqa: B018 - made once, they check their settings

    @property
    def sampling(self) -> Sampling:
        """As preparation reads it."""
        return Sampling(
            class_weights=self.class_weights,
            weight=self.weight,
            ignore=self.ignore,
            allow_null=self.allow_null,
            max_categories=self.max_categories,
        )

    @property
    def gates(self) -> Gates:
        return Gates(min_auc=self.min_auc)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal configuration back."""
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Self:
        """Also from a table of a TOML file; ConfigError for a setting that is not known or missing."""
        known = [one.name for one in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError.unknown_key("training", key, known)
        for key in ("split", "storage"):
            require(key in settings, key, None, "given")
        return cls(**settings)

    def outcome(self) -> dict[str, Any]:
        """The settings on which it depends what comes out."""
        return {key: value for key, value in self.to_json().items() if key not in WITHOUT_EFFECT}

    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        return {key: value for key, value in self.outcome().items() if key != "min_auc"}


def matrix_of(blocks: list[Rows], design: Design, dtype: type[np.floating]) -> NDArray[np.floating]:
    """(n, columns) of encoded rows in their order."""
    return np.concatenate([design.matrix(rows.numbers, rows.codes, dtype) for rows in blocks])


def scored(model: Model, part: Part) -> dict[str, float]:
    """Metrics of a model over every row of a part; labels and predictions are held, the features block by block."""
    labels, predictions = [], []
    for rows in part.stream():
        labels.append(rows.labels)
        predictions.append(model.scorer.scores(rows.numbers, rows.codes))
    return model.task.metrics(np.concatenate(labels), np.concatenate(predictions))


def scores_of(directory: Path, parts: Mapping[str, Part]) -> dict[str, float]:
    """Metrics of the model in `directory` over the validation and the test part, by a Ray task."""
    wanted = {name: part for name, part in parts.items() if name != "train"}
    with mlray_errors():
        found: dict[str, float] = ray.get(score_task.remote(directory, wanted))
    return found


@ray.remote(num_cpus=1)
def score_task(directory: Path, parts: Mapping[str, Part]) -> dict[str, float]:
    model = load_model(directory)
    return {f"{name}_{metric}": value for name, part in parts.items() for metric, value in scored(model, part).items()}
