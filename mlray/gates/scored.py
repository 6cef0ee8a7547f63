"""The test rows with what the model said of them: a pass over the training set, block by block, wherever blocks lie.

A table of slices needs columns that the model never reads, so the encoded rows of the training will not do. Each task
loads the saved model, scores the test rows of its block and gives back labels, predictions and the columns asked for;
the driver gets at most `MOST_ROWS` of them, chosen by a hash of their place in the spine.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from mlray._ray_compat import mlray_errors
from mlray.errors import SchemaError
from mlray.offline.spine import ROW
from mlray.registry.manifest import manifest_of
from mlray.training.feed import mix
from mlray.training.model import Model, load_model

MOST_ROWS = 1 << 20
_LABEL, _OURS, _THEIRS = "__label", "__ours", "__theirs"

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Some rows of a training set: those of [low, high) in microseconds that have a label, and of them about `share`,
    chosen by a hash of their place in the spine. columns: to keep.
    """

    label: str
    timestamp: str
    between: tuple[int, int]
    share: float = 1.0
    columns: tuple[str, ...] = ()

    def of(self, table: pa.Table) -> pa.Table:
        """The chosen rows of a block, all columns."""
        table = placed(table)
        time = table.column(self.timestamp).cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())
        inside = pc.and_(pc.greater_equal(time, self.between[0]), pc.less(time, self.between[1]))
        table = table.filter(pc.and_(pc.fill_null(inside, False), pc.is_valid(table.column(self.label))))
        if self.share >= 1:
            return table
        place = mix(table.column(ROW).to_numpy().astype(np.uint64))
        return table.filter(pa.array(place < np.uint64(self.share * 2**64)))


def placed(table: pa.Table) -> pa.Table:
    """With `__row`: where rows have no place, a hash of what is in them does as well."""
    if ROW in table.column_names:
        return table
    hashes = pl.DataFrame(pl.from_arrow(table)).hash_rows(seed=0).to_numpy() >> np.uint64(1)
    return table.append_column(ROW, pa.array(hashes.astype(np.int64)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """A saved model: a folder that every node sees, and the digest of what is in it."""

    folder: str
    digest: str

    @classmethod
    def at(cls, folder: str | Path) -> "Saved":
        return cls(folder=str(folder), digest=manifest_of(Path(folder)).digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """Test rows in the order of the spine. labels: as the task encodes them; predictions: the model's, (n,) or
    (n, classes); theirs: the incumbent's, None where there is none; columns: those asked for.
    """

    labels: Floats
    predictions: Floats
    theirs: Floats | None = None
    columns: pa.Table = field(default_factory=lambda: pa.table({}))

    def __len__(self) -> int:
        return len(self.labels)


def score(dataset: Any, chosen: Chosen, model: Saved, incumbent: Saved | None = None) -> Scored:
    """Runs the pass over a Ray Dataset of finished rows with `__row`.

    SchemaError for a column that the rows do not have, and where no row is chosen.
    """
    rows = _passed(dataset, chosen, score_block, {"chosen": chosen, "model": model, "incumbent": incumbent})
    return gathered(rows, chosen, incumbent is not None)


def pick(dataset: Any, chosen: Chosen) -> pa.Table:
    """The chosen rows and columns themselves, in the order of the spine."""
    return _passed(dataset, chosen, pick_block, {"chosen": chosen}).select(list(chosen.columns))


def score_block(table: pa.Table, chosen: Chosen, model: Saved, incumbent: Saved | None) -> pa.Table:
    """The chosen rows of a block: `__row`, label, predictions and the columns asked for."""
    rows = chosen.of(table)
    ours = loaded(model)
    found = {
        ROW: rows.column(ROW),
        _LABEL: pa.array(np.asarray(ours.task.encode(rows.column(chosen.label)), np.float64)),
        _OURS: _listed(ours.predict(rows)),
    }
    if incumbent is not None:
        found[_THEIRS] = _listed(loaded(incumbent).predict(rows))
    return pa.table(found | {f"column {name}": rows.column(name) for name in chosen.columns})


def pick_block(table: pa.Table, chosen: Chosen) -> pa.Table:
    return chosen.of(table).select([ROW, *chosen.columns])


def _passed(dataset: Any, chosen: Chosen, function: Callable[..., pa.Table], arguments: dict[str, Any]) -> pa.Table:
    names = dataset.schema().names
    for name in chosen.columns:
        if name not in names:
            raise SchemaError.missing_column("[gates]", name, "the training set", [n for n in names if n != ROW])
    with mlray_errors():
        done = dataset.map_batches(function, batch_format="pyarrow", batch_size=None, fn_kwargs=arguments).materialize()
        tables = [table for table in ray.get(done.to_arrow_refs()) if table.num_rows]
    if not tables:
        raise SchemaError("[gates]: no row of the training set was found to look at")
    return pa.concat_tables(tables).sort_by(ROW)


def gathered(rows: pa.Table, chosen: Chosen, beside: bool) -> Scored:
    """What the blocks gave, as arrays. beside: whether an incumbent was scored, too."""
    theirs = _array(rows.column(_THEIRS)) if beside else None
    columns = pa.table({name: rows.column(f"column {name}") for name in chosen.columns})
    return Scored(
        labels=rows.column(_LABEL).to_numpy(),
        predictions=_array(rows.column(_OURS)),
        theirs=theirs,
        columns=columns,
    )


@lru_cache(maxsize=4)
def loaded(saved: Saved) -> Model:
    """The saved model, once per process."""
    return load_model(saved.folder)


def _listed(predictions: Floats) -> pa.Array:
    """(n,) as numbers, (n, k) as lists of k."""
    if predictions.ndim == 1:
        return pa.array(predictions)
    return pa.FixedSizeListArray.from_arrays(pa.array(predictions.ravel()), predictions.shape[1])


def _array(column: pa.ChunkedArray) -> Floats:
    """What `_listed` was given."""
    whole = column.combine_chunks()
    if not pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole.to_numpy(zero_copy_only=False), np.float64)
    return np.asarray(whole.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(whole), -1)
