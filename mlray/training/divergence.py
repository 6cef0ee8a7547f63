"""Which rows a loss or a gradient that is not finite came from, of all workers' rows."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlray.training.feed import Rows
from mlray.training.group import Group


class Suspect(NamedTuple):
    """Of one worker's rows of a batch. odd: how many have a loss that is not finite; wild: 1 where their gradient is
    not; column, value: the largest number of these rows, or of all where none is odd; 0, 0 of no number.
    """

    odd: float
    wild: float
    column: float
    value: float


def suspect(batch: Rows, losses: NDArray[np.float32], wild: bool) -> Suspect:
    """losses: (n,) of the rows of the batch; wild: whether their gradient is not finite."""
    odd = np.flatnonzero(~np.isfinite(losses))
    numbers = batch.numbers[odd] if len(odd) else batch.numbers
    if not numbers.size:
        return Suspect(len(odd), wild, 0, 0)
    row, column = np.unravel_index(np.abs(numbers).argmax(), numbers.shape)
    return Suspect(len(odd), wild, int(column), float(numbers[row, column]))


def worst(group: Group, own: Suspect) -> tuple[int, Suspect]:
    """The rank with the most odd rows, else with a wild gradient, else with the largest number; the same on each."""
    every = [Suspect(*found) for found in group.gather(np.array([own], np.float64).T, group.world).T.tolist()]
    rank = max(range(len(every)), key=lambda n: (every[n].odd, every[n].wild, abs(every[n].value)))
    return rank, every[rank]
