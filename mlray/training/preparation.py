"""From the lazy data set to encoded blocks in the object store, as Ray tasks. The driver sees counts only.

The data set is executed once: its blocks, cut down to the columns needed, stay in the object store (and spill) until
they are encoded. Then every block is scattered by the high bits of its rows' content hash, and each bucket sorted by
it: blocks of about `BLOCK_ROWS` rows in one global order, see feed.py. The driver holds a reference for each block and
bucket, so neither are more than `MOST_BUCKETS`: of a larger set a task takes several blocks, and a bucket more rows.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from mlray.errors import TrainingFailed
from mlray.offline.fingerprint import unordered
from mlray.offline.tasks import consumed, started
from mlray.training import labels
from mlray.training.columns import number_column
from mlray.training.config import PARTS, Split
from mlray.training.feed import Part, Rows, content_hash
from mlray.training.preprocessing import Preprocessing
from mlray.training.statistics import (
    Moments,
    Statistics,
    merge,
    observe_categories,
    observe_weights,
)
from mlray.training.task import Task

logger = logging.getLogger(__name__)

BLOCK_ROWS = 131_072
MOST_BUCKETS = 256
PART, TIME = "__part__", "__time__"
OUTSIDE = -1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Hashed = tuple[NDArray[np.uint64], Rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What is read of the training set: `kinds` maps each feature of the model to 'number' or 'text'; `weight` is a
    factor on the loss of a row; `task` is the kind of the task, and `label_type` the label's; `origins` says in words
    where a feature comes from.
    """

    kinds: Mapping[str, str]
    label: str
    timestamp: str
    weight: str | None = None
    task: str = "binary"
    label_type: pa.DataType = pa.bool_()  # noqa: RUF009 - immutable
    origins: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The columns that `assign_parts` reads."""
        return list(dict.fromkeys([*self.data(), self.timestamp]))

    def data(self) -> list[str]:
        """Those that it passes on."""
        return list(dict.fromkeys([*self.kinds, self.label, *([self.weight] if self.weight else [])]))


@dataclass(frozen=True, slots=True)
class Prepared:
    """`unseen` counts, per part, the categories that training did not have."""

    parts: dict[str, Part]
    preprocessing: Preprocessing
    statistics: Statistics
    unseen: dict[str, int]
    task: Task


def prepare(dataset: Any, columns: Columns, config: Any) -> Prepared:
    """Executes `dataset`, learns the preprocessing on the training part, and encodes all parts.

    config: that of any trainer; its split and sampling are read.
    """
    assigned = dataset.map_batches(
        assign_parts,
        batch_format="pyarrow",
        batch_size=None,
        fn_kwargs={"columns": columns, "split": config.split},
    )
    blocks = assigned.materialize().to_arrow_refs()
    seen = merge(map(ray.get, started(partial(observe_task.remote, block, columns) for block in blocks)))
    check(seen, columns, config)
    preprocessing = Preprocessing.learn(columns.kinds, seen, config.sampling.max_categories)
    rows = {part: seen.rows[number] for number, part in enumerate(PARTS)}
    task = labels.task_for(columns.task, columns.label_type, seen.labels)
    factors = labels.class_weights(config.sampling.class_weights, task, seen.labels)
    parts, unseen = encode(blocks, Encoding(preprocessing, columns, task, factors), rows)
    return Prepared(parts, preprocessing, seen, unseen, task)


def assign_parts(table: pa.Table, columns: Columns, split: Split) -> pa.Table:
    """The columns needed, the time in microseconds, and the part: 0, 1, 2, or -1 outside (also without a time)."""
    time = table.column(columns.timestamp).cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())
    known = time.fill_null(np.iinfo(np.int64).max).to_numpy()
    part = pa.array(parts_of(known, split))
    return table.select(columns.data()).append_column(TIME, pa.array(known)).append_column(PART, part)


def parts_of(times: NDArray[np.int64], split: Split) -> NDArray[np.int8]:
    """(n,) the part of each time in microseconds: 0, 1, 2, or -1 after the split and within an embargo."""
    #                train       +embargo      validation     +embargo        test
    #   training -----)  left out   [--- validation ---)  left out  [--- test ---)  left out
    of_interval = np.array([0, OUTSIDE, 1, OUTSIDE, 2, OUTSIDE], np.int8)
    bounds = [microseconds(until) for until in split.bounds()]
    return of_interval[np.searchsorted(bounds, times, side="right")]


def observe(table: pa.Table, columns: Columns) -> Statistics:
    """The statistics of one block of `assign_parts`."""
    part = table.column(PART).to_numpy()
    known = labels.observe(columns.task, table.column(columns.label), part)
    seen = Statistics(rows=Counter(part.tolist()), labels=known)
    seen.content = unordered(table.select([*columns.kinds, columns.label]))
    times = table.column(TIME).to_numpy()
    seen.first, seen.last = (int(times.min()), int(times.max())) if len(times) else (None, None)
    training = table.filter(pa.array(part == 0))
    for name, kind in columns.kinds.items():
        if kind == "number":
            seen.numbers[name] = Moments.of(number_column(training.column(name)))
        else:
            seen.categories[name] = observe_categories(training.column(name))
    if columns.weight:
        seen.bad_weights, seen.positive_weights = observe_weights(training.column(columns.weight))
    return seen


def check(seen: Statistics, columns: Columns, config: Any) -> None:
    """Refuses labels and splits from which nothing can be learned or measured."""
    for number, part in enumerate(PARTS):
        if not seen.rows[number]:
            raise TrainingFailed(
                f"split: no row lies in the {part} part ({config.split}); "
                f"'{columns.timestamp}' goes from {instant(seen.first)} to {instant(seen.last)}; move the split"
            )
    labels.check(columns.task, columns.label, seen.labels, seen.rows, PARTS)
    if seen.bad_weights or (columns.weight and not seen.positive_weights):
        raise TrainingFailed(
            f"weight '{columns.weight}' is negative, infinite or null in {seen.bad_weights} of {seen.rows[0]} training "
            f"rows and above 0 in {seen.positive_weights}; a weight is a finite number of 0 or more"
        )
    check_values(seen, columns, config.sampling.allow_null)
    if seen.rows[OUTSIDE]:
        logger.warning(
            "%d rows lie after the split, within its embargo or have no time; they are not used", seen.rows[OUTSIDE]
        )


def check_values(seen: Statistics, columns: Columns, allowed: Sequence[str]) -> None:
    """TrainingFailed for features without a value in the training part: a source that is empty, a key that never
    meets. Those that are `allowed` are warned of.
    """
    empty = [name for name, kind in columns.kinds.items() if not seen.has_value(name, kind)]
    refused = [name for name in empty if name not in allowed]
    if refused:
        named = ", ".join(f"'{name}' {columns.origins.get(name, '')}".rstrip() for name in refused)
        raise TrainingFailed(
            f"the {seen.rows[0]:,} rows of the train part have no value of feature {named}; look at the source and at "
            f"the spine's keys, leave it out with ignore={refused}, or train all the same with allow_null={refused}"
        )
    for name in empty:
        logger.warning("feature '%s' is null in every training row; the model learns nothing from it", name)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a row of `assign_parts` becomes one of `Rows`; `factors` are on the losses of the classes, () for none."""

    preprocessing: Preprocessing
    columns: Columns
    task: Task
    factors: tuple[float, ...] = ()

    def rows(self, table: pa.Table) -> tuple[Rows, Counter[str]]:
        """The encoded rows, and the unseen categories."""
        encoded = self.preprocessing.encode(table)
        labels = self.task.encode(table.column(self.columns.label))
        weights = self.weights(labels)
        if self.columns.weight:
            weights = weights * number_column(table.column(self.columns.weight))
        return Rows(encoded.numbers, encoded.codes, labels, weights.astype(np.float32)), encoded.unseen

    def weights(self, encoded: NDArray[Any]) -> NDArray[np.float64]:
        """The factor of each row's class."""
        return np.asarray(self.factors)[encoded.astype(np.int64)] if self.factors else np.ones(len(encoded))


def encode(
    blocks: list[Any], encoding: Encoding, rows: Mapping[str, int]
) -> tuple[dict[str, Part], dict[str, int]]:
    """The parts in their global order, and the unseen categories per part. blocks: emptied, for the object store is to
    hold each only until it is encoded.
    """
    size = max(BLOCK_ROWS, -(-sum(rows.values()) // MOST_BUCKETS))
    buckets = [-(-count // size) for count in rows.values()]
    task: Any = scatter_task.options(num_returns=1 + sum(buckets))
    together = -(-len(blocks) // MOST_BUCKETS)
    groups = [blocks[start : start + together] for start in range(0, len(blocks), together)]
    blocks.clear()
    scattered = started((partial(task.remote, encoding, buckets, *group) for group in consumed(groups)), told=0)
    found: list[list[Counter[str]]] = ray.get([returned[0] for returned in scattered])
    unseen = [sum(counts, Counter[str]()) for counts in zip(*found, strict=True)]
    shards = [[returned[1 + bucket] for returned in scattered] for bucket in range(sum(buckets))]
    del scattered
    ordered = started((partial(order_task.remote, *refs) for refs in consumed(shards)), told=None)
    ends = np.cumsum(buckets)
    parts = {
        part: Part(tuple(ordered[end - count : end]), rows[part])
        for part, count, end in zip(PARTS, buckets, ends, strict=True)
    }
    for part, counts in zip(PARTS, unseen, strict=True):
        for name, count in (+counts).items():
            logger.info("%s: %d values of '%s' were not seen in training", part, count, name)
    return parts, {part: counts.total() for part, counts in zip(PARTS, unseen, strict=True)}


def scatter(table: pa.Table, encoding: Encoding, buckets: Sequence[int]) -> tuple[list[Counter[str]], list[Hashed]]:
    """The encoded rows by (part, high bits of their hash), and the unseen categories per part."""
    unseen, scattered = [], []
    part = table.column(PART).to_numpy()
    for number, count in enumerate(buckets):
        mine = table.filter(pa.array(part == number))
        rows, strange = encoding.rows(mine)
        keys = content_hash(rows, mine.column(TIME).to_numpy().astype(np.int64))
        bucket = ((keys >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)
        for place in range(count):
            chosen = np.flatnonzero(bucket == place)
            scattered.append((keys[chosen], rows.take(chosen)))
        unseen.append(strange)
    return unseen, scattered


def scatter_all(
    tables: Iterable[pa.Table], encoding: Encoding, buckets: Sequence[int]
) -> tuple[list[Counter[str]], list[Hashed]]:
    """The same of several blocks, which are encoded one after the other."""
    found = [scatter(table, encoding, buckets) for table in tables]
    unseen = [sum(counts, Counter[str]()) for counts in zip(*(one[0] for one in found), strict=True)]
    return unseen, [joined(*shards) for shards in zip(*(one[1] for one in found), strict=True)]


def joined(*shards: Hashed) -> Hashed:
    return np.concatenate([keys for keys, _ in shards]), Rows.concat([rows for _, rows in shards])


def order(*shards: Hashed) -> Rows:
    """The rows of all shards by ascending hash; rows of one hash are equal, so their order is nobody's."""
    keys, rows = joined(*shards)
    return rows.take(np.argsort(keys, kind="stable"))


@ray.remote(num_cpus=1)
def observe_task(table: pa.Table, columns: Columns) -> Statistics:
    return observe(table, columns)


@ray.remote(num_cpus=1)
def scatter_task(encoding: Encoding, buckets: Sequence[int], *tables: pa.Table) -> tuple[Any, ...]:
    unseen, scattered = scatter_all(tables, encoding, buckets)
    return (unseen, *scattered)


@ray.remote(num_cpus=1)
def order_task(*shards: Hashed) -> Rows:
    return order(*shards)


def microseconds(until: datetime) -> int:
    return (until - EPOCH) // timedelta(microseconds=1)


def instant(time: int | None) -> str:
    return "nothing" if time is None else str(EPOCH + timedelta(microseconds=time))
