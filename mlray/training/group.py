"""The workers of a run, as one of them sees them."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """This worker is `rank` of `world`; alone, it needs no process group."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    def draw_from(self, seed: int) -> None:
        """Seeds what the CPU and this device draw from, as torch.manual_seed would. That one also writes down the stack
        for kinds of devices that are not there: 0.1 ms and more, in every step.
        """
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place, the same bits on each."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def agree(self, value: int) -> int:
        """Rank 0's value."""
        shared = torch.tensor([value], device=self.device)
        if self.world > 1:
            dist.broadcast(shared, src=0)
        return int(shared.item())

    def in_trouble(self, trouble: object) -> bool:
        """Whether any rank is in trouble, which None is not."""
        return bool(self.sum(torch.tensor([float(trouble is not None)], device=self.device)).item())

    def gather(self, values: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
        """(k, mine) of each rank to (k, rows) on all; `mine` is the share of `rows` that `feed.share` gives a rank."""
        longest = -(-rows // self.world)
        padded = np.zeros((len(values), longest))
        padded[:, : values.shape[1]] = values
        mine = torch.from_numpy(padded).to(self.device)
        every = [torch.empty_like(mine) for _ in range(self.world)]
        if self.world > 1:
            dist.all_gather(every, mine)
        else:
            every = [mine]
        lengths = (len(range(rank, rows, self.world)) for rank in range(self.world))
        return np.concatenate([t.cpu().numpy()[:, :n] for t, n in zip(every, lengths, strict=True)], axis=1)

    def wait(self) -> None:
        """Until every rank is here."""
        self.sum(torch.zeros(1, device=self.device))
