"""A model version trained again, by its recorded configuration on its training set; what came out beside the record.

On CPU, with the number of workers that it was trained with and the same versions of the packages, the weights of a
network and the trees of XGBoost are the same to the bit. An estimator of scikit-learn's predicts the same to the bit,
but its file holds addresses, which are others each time.
"""

import hashlib
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlray.errors import ConfigError
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.model_version import ModelVersion
from mlray.training.kinds import config_of, train
from mlray.training.launch import TrainingData

WEIGHTS = ("model.safetensors", "model.ubj")
COMPARED = ("train_", "validation_", "test_")


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """metrics: name -> (recorded, now), of losses and scores. weights: the SHA-256 of their file."""

    version: str
    run: str
    metrics: Mapping[str, tuple[float, float]]
    weights: str
    recorded_weights: str

    @property
    def same(self) -> bool:
        """Whether the weights are the recorded ones, to the bit."""
        return self.weights == self.recorded_weights

    @property
    def largest_difference(self) -> float:
        """Of any metric; 0 where both are NaN, infinite where one is and the other is not."""
        return max((distance(a, b) for a, b in self.metrics.values()), default=0.0)


def distance(a: float, b: float) -> float:
    """How far two values of a metric are apart; the same of two that are no number, or infinite alike, is 0."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    return math.inf if math.isnan(a) or math.isnan(b) else abs(a - b)


def retrain(version: ModelVersion, ts: TrainingData, artifacts: ArtifactStore, storage: str | Path) -> Retrained:
    """Needs Ray. The run lies in `storage`, under a new name."""
    weights = {file.path: file.sha256 for file in artifacts.manifest(version.digest).files if file.path in WEIGHTS}
    if not weights:
        raise ConfigError(f"{version.reference} has none of {', '.join(WEIGHTS)}, whose bytes would be the same again")
    [(file, recorded)] = weights.items()
    name = f"{version.name}-{version.version}-{uuid.uuid4().hex[:8]}"
    recorded_settings = {key: value for key, value in version.config.items() if key != "tracking"}
    settings = {**recorded_settings, "storage": str(storage), "run": name}
    run = train(config_of(settings), ts)
    names = [name for name in version.metrics if name.startswith(COMPARED) and name in run.metrics]
    return Retrained(
        version=version.reference,
        run=run.id,
        metrics={name: (version.metrics[name], run.metrics[name]) for name in names},
        weights=hashlib.sha256(Path(run.checkpoint, file).read_bytes()).hexdigest(),
        recorded_weights=recorded,
    )
