"""What a training leaves: enough to register it, to serve it and to repeat it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """`checkpoint` is a directory of model files (see model.py); `history` has one entry per epoch.

    `metrics`: train_loss and validation_* of the best epoch, test_* of its model, rows_* per part, best_epoch, epochs,
    unseen_* per part, seconds of the whole training, of these seconds_data until the rows were ready and seconds_start
    from then until the workers were (where one was lost: the last ones).
    """

    id: str
    metrics: dict[str, float]
    checkpoint: str
    service: str
    service_hash: str
    service_definition: str
    sources: dict[str, int]
    fingerprint: str
    spine: str
    features: tuple[str, ...]
    label: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    history: tuple[dict[str, float], ...]
