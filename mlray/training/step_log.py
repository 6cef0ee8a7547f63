"""The metrics of each step in a Delta table of the run, appended at checkpoints; a resumed run has each step once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake


class Step(NamedTuple):
    """step: from 1, over all epochs; loss: mean over the rows; gradient_norm: before clipping; learning_rate: of the
    first group of parameters; seconds: of the whole step; waited: of these, for the batch.
    """

    step: int
    epoch: int
    rows: int
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    waited: float


SCHEMA = pa.schema([(name, pa.int64() if kind is int else pa.float64()) for name, kind in Step.__annotations__.items()])


@dataclass(frozen=True, slots=True)
class StepLog:
    """The table at `path`; there is none before the first append. One writer."""

    path: Path

    def append(self, steps: Sequence[Step]) -> None:
        rows = pa.Table.from_pylist([step._asdict() for step in steps], SCHEMA)
        write_deltalake(self.path, rows, mode="append")

    def forget_after(self, step: int) -> None:
        """Drops what a run that was cut off logged after its last checkpoint: these steps come again."""
        if DeltaTable.is_deltatable(str(self.path)):
            DeltaTable(self.path).delete(f"step > {step}")
