"""Which rows, of which worker, a loss that is not finite is told of."""

import math
from pathlib import Path

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp

from mlray.training.divergence import Suspect, suspect, worst
from mlray.training.feed import Rows
from mlray.training.group import Group


def rows(numbers: list[list[float]]) -> Rows:
    count = len(numbers)
    codes, ones = np.zeros((count, 0), np.int32), np.ones(count, np.float32)
    return Rows(np.array(numbers, np.float32).reshape(count, 2), codes, ones, ones)


def test_the_largest_number_is_that_of_the_rows_whose_loss_is_not_finite() -> None:
    batch = rows([[1, -7], [2, 3], [-5, 4]])
    assert suspect(batch, np.array([0.1, math.nan, math.inf], np.float32), True) == Suspect(2, 1, 0, -5.0)
    assert suspect(batch, np.array([0.1, 0.2, 0.3], np.float32), False) == Suspect(0, 0, 1, -7.0)
    assert suspect(rows([]), np.zeros(0, np.float32), False) == Suspect(0, 0, 0, 0)


def look(rank: int, meeting: str) -> None:
    """As two workers: the first has the larger number, the second the loss that is not finite."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    mine = rows([[8, 1]]) if rank == 0 else rows([[0.5, 2], [1, 1]])
    losses = np.array([0.5] if rank == 0 else [math.nan, 0.1], np.float32)
    assert worst(Group(rank, 2), suspect(mine, losses, rank == 1)) == (1, Suspect(1, 1, 1, 2.0))
    dist.destroy_process_group()


def test_the_worker_that_had_it_is_named_by_every_worker(tmp_path: Path) -> None:
    mp.spawn(look, args=(str(tmp_path / "meeting"),), nprocs=2)
