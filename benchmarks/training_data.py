"""G's training set: a spine with a label over the tables of A, and the same rows as the loop has them in memory."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import mlray as ml
from benchmarks import data, session
from benchmarks.data import Purchases
from mlray import days, hours
from mlray.training.config import PARTS, TrainerConfig
from mlray.training.feed import Rows
from mlray.training.preparation import Columns, Encoding, assign_parts, observe, order, scatter
from mlray.training.preprocessing import Preprocessing
from mlray.training.task import Task

SOURCE = ml.DeltaSource("purchases", path="purchases", timestamp="bought_at")
USER = ml.Entity("user", keys=["user_id"])
VIEW = ml.FeatureView(
    "habits",
    entity=USER,
    source=SOURCE,
    features=[*data.COLUMNS, ml.Count(windows=[hours(1), days(7)]), ml.Mean("v0", windows=[days(1), days(30)])],
)
SERVICE = ml.FeatureService("training", features=[VIEW])
LABEL = "label"
HIDDEN = (1000, 1000)
"""A million parameters: some twenty inputs, two layers of a thousand."""

START = datetime.fromtimestamp(data.START / 1e6, UTC)


@dataclass(frozen=True)
class Training:
    """The tables, and what is trained on them."""

    purchases: Purchases
    hidden: tuple[int, ...] = HIDDEN
    batch_size: int = 1024

    def spine(self, lake: Path) -> pa.Table:
        """The spine with a label that nothing tells: its share of ones is a half."""
        spine = pa.concat_tables(pq.read_table(file) for file in data.files(lake / "spine"))
        drawn = np.random.default_rng(data.SEED).random(spine.num_rows) < 0.5
        return spine.append_column(LABEL, pa.array(drawn))

    def training_set(self, lake: Path) -> Any:
        """Planned, not computed."""
        return session.platform(lake).build_training_set(SERVICE, self.spine(lake), label=LABEL)

    def config(self, storage: Path, run: str, **settings: Any) -> TrainerConfig:
        """Nine tenths of the time for training, one epoch, two workers, one checkpoint."""
        first, days_ = START, self.purchases.days
        ends = {part: first + timedelta(days=days_ * share) for part, share in zip(PARTS, (0.9, 0.95, 1), strict=True)}
        sizes = {"hidden": self.hidden, "batch_size": self.batch_size, "shuffle_rows": 256 * self.batch_size}
        plain = {"split": ends, "storage": str(storage), "run": run, "epochs": 1, "dropout": 0.0}
        return TrainerConfig.from_json({**plain, **sizes, **settings})

    def columns(self) -> Columns:
        return Columns(kinds=dict.fromkeys(SERVICE.names, "number"), label=LABEL, timestamp="timestamp")


def in_memory(table: pa.Table, columns: Columns, config: TrainerConfig) -> tuple[Preprocessing, dict[str, Rows]]:
    """The table as the loop is given it, by the same functions, in this process."""
    block = assign_parts(table.combine_chunks(), columns, config.split)
    preprocessing = Preprocessing.learn(columns.kinds, observe(block, columns), config.sampling.max_categories)
    _, scattered = scatter(block, Encoding(preprocessing, columns, Task()), [1] * len(PARTS))
    return preprocessing, {part: order(shard) for part, shard in zip(PARTS, scattered, strict=True)}
