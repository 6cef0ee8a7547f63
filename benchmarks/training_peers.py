"""What G is compared with, each in two processes that share gradients by gloo, one thread each:

memory    the loop of mlray over rows that each process holds in memory
ddp       a plain loop: DistributedDataParallel, a DataLoader that streams the Parquet files of the written set

    python -m benchmarks.training_peers JOB.json RANK     (started by `run`)
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from deltalake import DeltaTable
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.data import Purchases
from benchmarks.training_data import LABEL, Training, in_memory
from mlray.training.checkpoint import RunDirectory
from mlray.training.config import TrainerConfig
from mlray.training.feed import Rows
from mlray.training.group import Group
from mlray.training.model import Signature
from mlray.training.trainer import Trainer

WORLD = 2
PLAIN = dict(os.environ)
"""Before mlray starts Ray, with settings of its own."""


@dataclass(frozen=True)
class Job:
    """who: 'memory' or 'ddp'; written: the training set as a Delta table; loaders: processes of each DataLoader."""

    who: str
    written: str
    folder: str
    config: dict[str, Any]
    loaders: int = 0


def run(job: Job) -> dict[str, float]:
    """Rows and seconds of the training pass of one epoch."""
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "benchmarks.training_peers", str(folder / "job.json")]
    ranks = [subprocess.Popen([*command, str(rank)], env=PLAIN) for rank in range(WORLD)]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        raise RuntimeError(f"{job.who} ended with an error; see above")
    found: dict[str, float] = json.loads((folder / "result.json").read_text())
    return found


def memory(job: Job, rank: int) -> dict[str, float]:
    config = TrainerConfig.from_json(job.config)
    columns = Training(Purchases(1, 1, 1)).columns()
    preprocessing, rows = in_memory(DeltaTable(job.written).to_pyarrow_table(), columns, config)
    trainer = Trainer(
        config,
        preprocessing,
        Signature(inputs=dict.fromkeys(columns.kinds, "double"), label=LABEL),
        {part: partial(one_block, held) for part, held in rows.items()},
        {part: len(held) for part, held in rows.items()},
        RunDirectory(Path(config.storage) / str(config.run)),
        group=Group(rank, WORLD),
    )
    trainer.train()
    [epoch] = trainer.progress.history
    return {"rows": len(rows["train"]), "seconds": len(rows["train"]) / epoch["rows_per_second"]}


def one_block(rows: Rows) -> Iterator[Rows]:
    yield rows


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """This rank's row groups as batches of (inputs, labels); nulls are 0, nothing is shuffled."""

    def __init__(self, job: Job, rank: int) -> None:
        config = TrainerConfig.from_json(job.config)
        self.files, self.rank = DeltaTable(job.written).file_uris(), rank
        self.size = config.sampling.batch_size // WORLD
        self.features = list(Training(Purchases(1, 1, 1)).columns().kinds)
        self.until = config.split.train

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for file in self.files:
            table = pq.read_table(file, columns=[*self.features, LABEL], filters=[("timestamp", "<", self.until)])
            mine = table.slice(self.rank * table.num_rows // WORLD, table.num_rows // WORLD)
            for batch in mine.to_batches(self.size):
                columns = [batch.column(name).cast("float32").to_numpy(zero_copy_only=False) for name in self.features]
                labels = np.array(batch.column(LABEL).cast("float32").to_numpy(zero_copy_only=False))
                yield torch.from_numpy(np.nan_to_num(np.stack(columns, axis=1))), torch.from_numpy(labels)


def ddp(job: Job, rank: int) -> dict[str, float]:
    config = TrainerConfig.from_json(job.config)
    torch.manual_seed(config.seed)
    batches = Batches(job, rank)
    widths = [len(batches.features), *config.network.hidden]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    network = DistributedDataParallel(nn.Sequential(*layers, nn.Linear(widths[-1], 1)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.optimizer.learning_rate)
    rows, began = 0, time.monotonic()
    with network.join():
        for inputs, labels in DataLoader(batches, batch_size=None, num_workers=job.loaders):
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(network(inputs).squeeze(1), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rows += len(labels)
    total = torch.tensor([float(rows)])
    dist.all_reduce(total)
    return {"rows": total.item(), "seconds": time.monotonic() - began}


def main() -> None:
    path, rank = Path(sys.argv[1]), int(sys.argv[2])
    job = Job(**json.loads(path.read_text()))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path.parent}/meeting", rank=rank, world_size=WORLD)
    found = {"memory": memory, "ddp": ddp}[job.who](job, rank)
    if rank == 0:
        (path.parent / "result.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
