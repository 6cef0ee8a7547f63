"""Optimizer, schedule and gradients of one network, by the names that torch gives them."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mlray.errors import ConfigError, did_you_mean
from mlray.training.config import Optimizer, Schedule
from mlray.training.group import Group

LOSS, TROUBLE, FIRST = 0, 1, 2


class Gradients:
    """All gradients as one float32 vector, behind the loss and the number of ranks in trouble.

    DistributedDataParallel reorders its buckets after the first step, which a resumed run would take anew: with more
    than two ranks that changes the order of the sums. One vector has one order, and the loss and the news that a rank
    cannot go on travel with it for nothing. Every `grad` is a view of it, so nothing is copied.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        learned = [parameter for parameter in parameters if parameter.requires_grad]
        self.flat = torch.zeros(FIRST + sum(p.numel() for p in learned), device=learned[0].device)
        place = FIRST
        for parameter in learned:
            parameter.grad = self.flat[place : place + parameter.numel()].view_as(parameter)
            place += parameter.numel()

    def clear(self) -> None:
        self.flat.zero_()

    def add_loss(self, loss: Tensor) -> None:
        """Backward of `loss`, on top of what is there."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.flat[LOSS] += loss.detach()

    def share(self, group: Group, trouble: bool) -> tuple[float, float, float]:
        """Sums over the ranks; the loss, the norm of the gradient, and how many ranks are in trouble."""
        self.flat[TROUBLE] = float(trouble)
        group.sum(self.flat)
        norm = torch.linalg.vector_norm(self.flat[FIRST:])
        loss, troubled, length = torch.stack([self.flat[LOSS], self.flat[TROUBLE], norm]).tolist()
        return loss, length, troubled

    def clip(self, norm: float, largest: float | None) -> None:
        """Shortens a gradient of this norm to `largest`."""
        if largest is not None and norm > largest:
            self.flat[FIRST:] *= largest / norm


def build_optimizer(config: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    given = {"lr": config.learning_rate, "weight_decay": config.weight_decay, **config.arguments}
    found: torch.optim.Optimizer = built(
        "optimizer", torch.optim, torch.optim.Optimizer, config.name, parameters, given
    )
    return found


def build_schedule(config: Schedule | None, optimizer: torch.optim.Optimizer) -> Any:
    """An LRScheduler; None where none is asked for."""
    if config is None:
        return None
    kinds = torch.optim.lr_scheduler
    schedule = built("schedule", kinds, kinds.LRScheduler, config.name, optimizer, config.arguments)
    try:
        json.dumps(schedule.state_dict())
    except TypeError as error:
        raise ConfigError(f"training: schedule {config.name} cannot be kept in a checkpoint: {error}") from error
    return schedule


def advance(schedule: Any, loss: float) -> None:
    """The schedule's next step; `loss` is for ReduceLROnPlateau, which goes by it."""
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        schedule.step(loss)
    elif schedule is not None:
        schedule.step()


def check(optimizer: Optimizer, schedule: Schedule | None) -> None:
    """ConfigError for names and arguments that torch refuses; tried on one parameter."""
    build_schedule(schedule, build_optimizer(optimizer, [nn.Parameter(torch.zeros(1))]))


def built(kind: str, module: Any, parent: type, name: str, first: Any, arguments: Any) -> Any:
    known = [n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, parent) and c is not parent]
    if name not in known:
        raise ConfigError(f"training: torch has no {kind} '{name}'{did_you_mean(name, known)}")
    try:
        return getattr(module, name)(first, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training: {kind} {name} does not take {dict(arguments)}: {error}") from error
