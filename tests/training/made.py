"""A made-up training set with signal in numbers, texts and what is missing, and a loop over it without Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from mlray.training import labels
from mlray.training.checkpoint import RunDirectory
from mlray.training.config import PARTS, Split
from mlray.training.feed import Rows
from mlray.training.model import Signature
from mlray.training.preparation import Columns, Encoding, assign_parts, observe, order, scatter
from mlray.training.preprocessing import Preprocessing, kind
from mlray.training.task import Task
from mlray.training.trainer import Trainer

START = datetime(2026, 1, 1, tzinfo=UTC)
SPLIT = Split(
    train=START + timedelta(hours=60), validation=START + timedelta(hours=80), test=START + timedelta(hours=100)
)
EPOCHS = 10
PLAIN: dict[str, Any] = {"epochs": EPOCHS, "patience": None, "keep": EPOCHS, "dropout": 0.0}
TIMES = ("seconds", "seconds_data", "seconds_start", "waited", "rows_per_second")
FEATURES = ["amount", "visits", "rate", "weekend", "country"]


def table(rows: int, seed: int = 0) -> pa.Table:
    """Times spread evenly over 100 hours; the label depends on amount, country and on a missing rate."""
    random = np.random.default_rng(seed)
    amount = np.exp(random.normal(3, 2, rows))
    country = random.choice(["DE", "FR", "PT"], rows)
    rate = random.normal(0, 1, rows)
    rate[random.random(rows) < 0.2] = np.nan
    logit = 0.8 * (np.log(amount) - 3) + 1.5 * (country == "PT") - 1.5 * np.isnan(rate) - 0.5
    return pa.table({
        "at": pa.array([START + timedelta(hours=100) * (i / rows) for i in range(rows)], pa.timestamp("us", "UTC")),
        "bought": random.random(rows) < 1 / (1 + np.exp(-logit)),
        "amount": amount,
        "visits": pa.array(random.integers(0, 50, rows), mask=random.random(rows) < 0.1),
        "rate": rate,
        "weekend": random.random(rows) < 0.3,
        "country": pa.array(country, mask=random.random(rows) < 0.05),
    })


def config(storage: Path, **settings: Any) -> Trainer.Config:
    """Settings by their own names, as in a file, or by sections."""
    small = {"epochs": 3, "batch_size": 256, "shuffle_rows": 1024, "hidden": (32,), "learning_rate": 3e-3}
    return Trainer.Config.from_json({"split": SPLIT, "storage": str(storage), **small, **settings})


def columns(data: pa.Table, features: list[str] = FEATURES, weight: str | None = None) -> Columns:
    kinds = {name: kind(name, data.schema.field(name).type) for name in features}
    return Columns(kinds=kinds, label="bought", timestamp="at", weight=weight)


def parts(
    data: pa.Table, read: Columns, class_weights: str | Mapping[str, float] | None = None
) -> tuple[Preprocessing, dict[str, Rows]]:
    """What `prepare` makes, of one block and in this process."""
    block = assign_parts(data, read, SPLIT)
    seen = observe(block, read)
    preprocessing = Preprocessing.learn(read.kinds, seen, max_categories=100)
    encoding = Encoding(preprocessing, read, Task(), labels.class_weights(class_weights, Task(), seen.labels))
    _, scattered = scatter(block, encoding, [1, 1, 1])
    return preprocessing, {part: order(shard) for part, shard in zip(PARTS, scattered, strict=True)}


def trainer(settings: Trainer.Config, data: pa.Table, **given: Any) -> Trainer:
    """The loop as one worker runs it alone, in `storage/run`."""
    read = columns(data, weight=settings.sampling.weight)
    preprocessing, rows = parts(data, read, settings.sampling.class_weights)
    return Trainer(
        settings,
        preprocessing,
        Signature(inputs={name: str(data.schema.field(name).type) for name in read.kinds}, label=read.label),
        {part: lambda held=held: iter([held]) for part, held in rows.items()},
        {part: len(held) for part, held in rows.items()},
        RunDirectory(Path(settings.storage) / str(settings.run)),
        **given,
    )


@dataclass(frozen=True, kw_only=True)
class MadeSet:
    """What training reads of a TrainingSet."""

    dataset: Any
    schema: pa.Schema
    features: list[str] = field(default_factory=lambda: list(FEATURES))
    label: str | None = "bought"
    timestamp: str = "at"
    sources: dict[str, int] = field(default_factory=lambda: {"shop": 4})
    fingerprint: str = "of this table"
    service: str = "shop"
    service_hash: str = "00ff"
    service_definition: str = "{}"
    recorded: dict[str, Any] = field(default_factory=dict)


def in_blocks(data: pa.Table, blocks: int = 3, **given: Any) -> MadeSet:
    """The table as a training set."""
    size = -(-data.num_rows // blocks)
    pieces = [data.slice(start, size) for start in range(0, data.num_rows, size)]
    return MadeSet(dataset=ray.data.from_arrow(pieces), schema=data.schema, **given)


def weights(run: Path) -> bytes:
    """The model of a run that has ended."""
    return (run / "model" / "model.safetensors").read_bytes()


def scores(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics without the clock's."""
    return {name: value for name, value in metrics.items() if name not in TIMES}
