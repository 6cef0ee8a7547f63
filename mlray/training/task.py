"""What is learned: the loss of a row, the scores of rows, and their metrics."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mlray.training.evaluate import evaluate
from mlray.training.model import probabilities, scoring


class Binary:
    """Labels 0 and 1. `metric` chooses the best epoch where nothing else is asked for."""

    metric = "auc"

    def greater(self, metric: str) -> bool:
        """Whether more of it is better."""
        return metric not in ("log_loss", "brier")

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(n,) of (n,) logits and (n,) labels, in nats."""
        return binary_cross_entropy_with_logits(outputs, labels, reduction="none")

    def scorer(self, network: nn.Module, device: torch.device) -> Any:
        """The network as `scores` takes it."""
        return scoring(network, device)  # type: ignore[arg-type]

    def scores(self, scorer: Any, numbers: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """(n,) probabilities of label 1."""
        return probabilities(scorer, numbers, codes)

    def metrics(self, labels: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
        return evaluate(labels, scores)
