"""From the lazy data set to encoded blocks in the object store, as Ray tasks. The driver sees counts only.

The data set is executed once: its blocks, cut down to the columns needed, stay in the object store (and spill) until
they are encoded. Then every block is scattered by the high bits of its rows' content hash, and each bucket sorted by
it: blocks of about `BLOCK_ROWS` rows in one global order, see feed.py.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from mlray.errors import TrainingFailed
from mlray.training.feed import Part, Rows, content_hash
from mlray.training.preprocessing import Preprocessing
from mlray.training.statistics import (
    Moments,
    Statistics,
    merge,
    number_column,
    observe_categories,
    observe_labels,
)
from mlray.training.trainer import PARTS, Trainer

logger = logging.getLogger(__name__)

BLOCK_ROWS = 131_072
PART, TIME = "__part__", "__time__"
OUTSIDE = -1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Hashed = tuple[NDArray[np.uint64], Rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What is read of the training set: `kinds` maps each feature of the model to 'number' or 'text'."""

    kinds: Mapping[str, str]
    label: str
    timestamp: str

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.kinds, self.label, self.timestamp]))


@dataclass(frozen=True, slots=True)
class Prepared:
    """`unseen` counts, per part, the categories that training did not have."""

    parts: dict[str, Part]
    preprocessing: Preprocessing
    statistics: Statistics
    unseen: dict[str, int]


def prepare(dataset: Any, columns: Columns, config: Trainer.Config) -> Prepared:
    """Executes `dataset`, learns the preprocessing on the training part, and encodes all parts."""
    bounds = [microseconds(until) for until in config.split]
    assigned = dataset.map_batches(
        assign_parts,
        batch_format="pyarrow",
        batch_size=None,
        fn_kwargs={"columns": columns, "bounds": bounds},
    )
    blocks = assigned.materialize().to_arrow_refs()
    seen = merge(ray.get([observe_task.remote(block, columns) for block in blocks]))
    check(seen, columns, config)
    preprocessing = Preprocessing.learn(columns.kinds, seen, config.max_categories)
    rows = {part: seen.rows[number] for number, part in enumerate(PARTS)}
    parts, unseen = encode(blocks, preprocessing, columns, rows)
    return Prepared(parts, preprocessing, seen, unseen)


def assign_parts(table: pa.Table, columns: Columns, bounds: Sequence[int]) -> pa.Table:
    """The columns needed, the time in microseconds, and the part: 0, 1, 2, or -1 outside (also without a time)."""
    time = table.column(columns.timestamp).cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())
    known = time.fill_null(np.iinfo(np.int64).max).to_numpy()
    part = np.searchsorted(bounds, known, side="right").astype(np.int8)
    part[part == len(bounds)] = OUTSIDE
    names = [*columns.kinds, columns.label]
    return table.select(names).append_column(TIME, pa.array(known)).append_column(PART, pa.array(part))


def observe(table: pa.Table, columns: Columns) -> Statistics:
    """The statistics of one block of `assign_parts`."""
    part = table.column(PART).to_numpy()
    seen = observe_labels(table.column(columns.label), part)
    times = table.column(TIME).to_numpy()
    seen.first, seen.last = (int(times.min()), int(times.max())) if len(times) else (None, None)
    training = table.filter(pa.array(part == 0))
    for name, kind in columns.kinds.items():
        if kind == "number":
            seen.numbers[name] = Moments.of(number_column(training.column(name)))
        else:
            seen.categories[name] = observe_categories(training.column(name))
    return seen


def check(seen: Statistics, columns: Columns, config: Trainer.Config) -> None:
    """Refuses labels and splits from which nothing can be learned or measured."""
    if seen.other_labels:
        raise TrainingFailed(
            f"label '{columns.label}' must be 0 or 1 (or false or true); it also has {', '.join(seen.other_labels)}"
        )
    inside = {number: seen.rows[number] for number in range(len(PARTS))}
    missing = sum(seen.missing_labels[number] for number in inside)
    if missing:
        raise TrainingFailed(
            f"label '{columns.label}' is null in {missing} of {sum(inside.values())} rows; filter them out of the spine"
        )
    for number, part in enumerate(PARTS):
        if not seen.rows[number]:
            raise TrainingFailed(
                f"split: no row lies in the {part} part ({', '.join(map(str, config.split))}); "
                f"'{columns.timestamp}' goes from {instant(seen.first)} to {instant(seen.last)}; move the split"
            )
        if seen.positives[number] in (0, seen.rows[number]):
            value = 1 if seen.positives[number] else 0
            raise TrainingFailed(
                f"label '{columns.label}' is {value} in all {seen.rows[number]} rows of the {part} part; "
                "there is nothing to tell apart: check the label or move the split"
            )
    for name, moments in seen.numbers.items():
        if not moments.count:
            logger.warning("feature '%s' is null in every training row; the model learns nothing from it", name)
    if seen.rows[OUTSIDE]:
        logger.warning("%d rows lie after the split or have no time; they are not used", seen.rows[OUTSIDE])


def encode(
    blocks: Sequence[Any], preprocessing: Preprocessing, columns: Columns, rows: Mapping[str, int]
) -> tuple[dict[str, Part], dict[str, int]]:
    """The parts in their global order, and the unseen categories per part."""
    buckets = [-(-count // BLOCK_ROWS) for count in rows.values()]
    task: Any = scatter_task.options(num_returns=1 + sum(buckets))
    scattered = [task.remote(block, preprocessing, columns.label, buckets) for block in blocks]
    found: list[list[Counter[str]]] = ray.get([returned[0] for returned in scattered])
    unseen = [sum(counts, Counter[str]()) for counts in zip(*found, strict=True)]
    ordered = [order_task.remote(*(returned[1 + bucket] for returned in scattered)) for bucket in range(sum(buckets))]
    ends = np.cumsum(buckets)
    parts = {
        part: Part(tuple(ordered[end - count : end]), rows[part])
        for part, count, end in zip(PARTS, buckets, ends, strict=True)
    }
    for part, counts in zip(PARTS, unseen, strict=True):
        for name, count in (+counts).items():
            logger.info("%s: %d values of '%s' were not seen in training", part, count, name)
    return parts, {part: counts.total() for part, counts in zip(PARTS, unseen, strict=True)}


def scatter(
    table: pa.Table, preprocessing: Preprocessing, label: str, buckets: Sequence[int]
) -> tuple[list[Counter[str]], list[Hashed]]:
    """The encoded rows by (part, high bits of their hash), and the unseen categories per part."""
    unseen, scattered = [], []
    part = table.column(PART).to_numpy()
    for number, count in enumerate(buckets):
        mine = table.filter(pa.array(part == number))
        encoded = preprocessing.encode(mine)
        rows = Rows(encoded.numbers, encoded.codes, number_column(mine.column(label)).astype(np.float32))
        keys = content_hash(rows, mine.column(TIME).to_numpy().astype(np.int64))
        bucket = ((keys >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
        for place in range(count):
            chosen = np.flatnonzero(bucket == place)
            scattered.append((keys[chosen], rows.take(chosen)))
        unseen.append(encoded.unseen)
    return unseen, scattered


def order(*shards: Hashed) -> Rows:
    """The rows of all shards by ascending hash; rows of one hash are equal, so their order is nobody's."""
    keys = np.concatenate([keys for keys, _ in shards])
    return Rows.concat([rows for _, rows in shards]).take(np.argsort(keys, kind="stable"))


@ray.remote(num_cpus=1)
def observe_task(table: pa.Table, columns: Columns) -> Statistics:
    return observe(table, columns)


@ray.remote(num_cpus=1)
def scatter_task(table: pa.Table, preprocessing: Preprocessing, label: str, buckets: Sequence[int]) -> tuple[Any, ...]:
    unseen, scattered = scatter(table, preprocessing, label, buckets)
    return (unseen, *scattered)


@ray.remote(num_cpus=1)
def order_task(*shards: Hashed) -> Rows:
    return order(*shards)


def microseconds(until: datetime) -> int:
    return (until - EPOCH) // timedelta(microseconds=1)


def instant(time: int | None) -> str:
    return "nothing" if time is None else str(EPOCH + timedelta(microseconds=time))
