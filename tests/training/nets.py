"""A user's networks, as a package of theirs would have them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlray.training.network import Features, Network
from mlray.training.task import Task


class Linear(nn.Module):
    """Numbers only."""

    def __init__(self, features: Features, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(features.width, features.outputs, bias=bias)

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:  # noqa: ARG002
        outputs: Tensor = self.layer(numbers)
        return outputs.squeeze(1) if outputs.shape[1] == 1 else outputs


@dataclass(frozen=True)
class Wide(Network):
    """With defaults for the loss and the metrics."""

    bias: bool = True

    def build(self, features: Features) -> nn.Module:
        return Linear(features, self.bias)


@dataclass(frozen=True)
class Robust(Network):
    """With its own: an absolute error, and the share of large ones."""

    far: float = 1.0

    def build(self, features: Features) -> nn.Module:
        return Linear(features, True)

    def loss(self, outputs: Tensor, labels: Tensor, task: Task) -> Tensor:  # noqa: ARG002
        return torch.abs(outputs - labels)

    def metrics(self, labels: NDArray[Any], predictions: NDArray[np.float64], task: Task) -> dict[str, float]:  # noqa: ARG002
        return {"far_off": float(np.mean(np.abs(labels - predictions) > self.far))}


@dataclass(frozen=True)
class Mean(Network):
    """Its loss is one number for all rows, which no loop can weigh."""

    def build(self, features: Features) -> nn.Module:
        return Linear(features, True)

    def loss(self, outputs: Tensor, labels: Tensor, task: Task) -> Tensor:
        return super().loss(outputs, labels, task).mean()


class Untold:
    """No dataclass."""


@dataclass(frozen=True)
class Half:
    """Has no methods."""
