"""The gate `leakage`: does a feature know what it cannot know? The method is in docs/design/gates.md.

A sample of the spine is built three times over the same versions of the tables: an hour before each row's instant q, at
q and an hour after it. Of every feature is asked how well it tells the label alone (see association.py):

    at q        its value                  implausibly well: the gate fails
    until q     what the hour before q     implausibly well: the gate fails; an event that carries the outcome is
                changed in it              stamped before it was known
    after q     what the hour after q      is told: so much would leak through a row that is stamped an hour too
                changed in it              early, or a source that says nothing of when its rows were known
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from mlray._ray_compat import mlray_errors
from mlray.errors import DefinitionError
from mlray.gates.association import FEWEST, Floats, numbers, strength
from mlray.gates.result import Result
from mlray.gates.scored import Chosen, pick
from mlray.gates.settings import Leakage
from mlray.gates.terms import EARLIEST, LATEST, rows_of
from mlray.offline.tasks import started
from mlray.offline.tasks import task as ray_task
from mlray.offline.training_set import TrainingSet, build
from mlray.training.feed import mix
from mlray.training.task import MULTICLASS, Task, class_column, class_order

HOUR = timedelta(hours=1)
_WRITTEN = "the training set was written before: it was not built as of other instants"


def examine(ts: Any, kind: str, config: Leakage, ignore: tuple[str, ...] = ()) -> Result:
    """The result. DefinitionError where a feature is the label under another name. Of a training set that is no
    `TrainingSet` but was written before, only what features tell at their instant.
    """
    features = [name for name in ts.features if name not in (*ignore, *config.ignore)]
    if isinstance(ts, TrainingSet):
        before, now, after = as_of(ts, sample(ts, config.rows), (-HOUR, timedelta(0), HOUR))
    else:
        before = now = after = _picked(ts, config.rows, features)
    task = task_in(now.column(ts.label), kind)
    labels = np.asarray(task.encode(now.column(ts.label)), np.float64)
    refuse_the_label(now, features, str(ts.label), labels, task)
    found = {
        name: {
            "at": strength(labels, now.column(name), task),
            "until": changed(labels, before.column(name), now.column(name), task),
            "after": changed(labels, now.column(name), after.column(name), task),
        }
        for name in features
    }
    problems = (*inconclusive(found, now.num_rows), *too_well(found, config))
    largest = max((_known(f[when]) for f in found.values() for when in ("at", "until")), default=0.5)
    return Result(
        passed=not problems,
        value=largest,
        threshold=config.max_auc,
        problems=problems,
        notes=tuple(_notes(found, config)) if isinstance(ts, TrainingSet) else (_WRITTEN,),
        details={"rows": now.num_rows, "hours": 1, "features": found},
    )


def task_in(label: pa.ChunkedArray, kind: str) -> Task:
    """The task of the kind, with the classes that the labels of a sample have."""
    names = set(class_column(label).unique().to_pylist()) if kind == MULTICLASS else set()
    return Task(kind=kind, classes=class_order(names, label.type))


def _picked(ts: Any, rows: int, features: list[str]) -> pa.Table:
    chosen = Chosen(
        label=str(ts.label),
        timestamp=ts.timestamp,
        between=(EARLIEST, LATEST),
        share=rows / max(ts.count(), 1),
        columns=(str(ts.label), *features),
    )
    return pick(rows_of(ts), chosen)


def sample(ts: TrainingSet, rows: int) -> pa.Table:
    """About so many rows of the spine that have a label, chosen by a hash of their place."""
    share = min(1.0, rows / max(ts.count(), 1))
    with mlray_errors():
        parts = ray.get(started(partial(_sampled.remote, b.ref, b.offset, share, ts.label) for b in ts.spine.blocks))
    return pa.concat_tables(parts)


def taken(block: pa.Table, offset: int, share: float, label: str) -> pa.Table:
    """The block's rows whose place has a small hash, and a label."""
    if share < 1:
        place = mix(np.arange(offset, offset + block.num_rows).astype(np.uint64))
        block = block.filter(pa.array(place < np.uint64(share * 2**64)))
    return block.filter(pc.is_valid(block.column(label)))


@ray_task
def _sampled(block: pa.Table, offset: int, share: float, label: str) -> pa.Table:
    return taken(block, offset, share, label)


def as_of(ts: TrainingSet, spine: pa.Table, shifts: tuple[timedelta, ...]) -> list[pa.Table]:
    """The training set of these spine rows with their instants shifted, one table for each shift, in one build."""
    place = spine.schema.get_field_index(ts.timestamp)
    times = spine.column(place)
    moved = [
        spine.set_column(place, spine.field(place), pc.add(times, pa.scalar(shift, pa.duration("us"))).cast(times.type))
        for shift in shifts
    ]
    rows = build(
        ts.definition,
        pa.concat_tables(moved),
        lake=ts.join.lake,
        label=ts.label,
        timestamp=ts.timestamp,
        versions=ts.sources,
    ).to_arrow()
    return [rows.slice(i * spine.num_rows, spine.num_rows) for i in range(len(shifts))]


def changed(labels: Floats, earlier: pa.ChunkedArray, later: pa.ChunkedArray, task: Task) -> float:
    """How well the label is told by what changed: by how much, and whether anything did. 0.5 where nothing did."""
    a, b = numbers(earlier), numbers(later)
    if a is None or b is None:
        different = np.asarray(pc.invert(_same(earlier, later)).to_numpy(), np.float64)
    else:
        different = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not different.any():
        return 0.5
    views = [pa.chunked_array([pa.array(different.astype(np.float64))])]
    if a is not None and b is not None:
        with np.errstate(invalid="ignore"):
            views.append(pa.chunked_array([pa.array(b - a)]))
    known = [one for one in (strength(labels, view, task) for view in views) if not np.isnan(one)]
    return max(known, default=0.5)


def refuse_the_label(rows: pa.Table, features: list[str], label: str, labels: Floats, task: Task) -> None:
    """DefinitionError for a feature that has the label's value, or its opposite, in every row of the sample."""
    if len(np.unique(labels)) < 2:
        return
    for name in features:
        if _is_label(rows.column(name), rows.column(label), labels, task):
            raise DefinitionError(
                f"feature '{name}' equals the label '{label}' in all {len(labels):,} rows of a sample, so the model "
                "would read the answer; take it out of the service"
            )


def _is_label(column: pa.ChunkedArray, label: pa.ChunkedArray, labels: Floats, task: Task) -> bool:
    values = numbers(column)
    if values is not None and task.kind != "multiclass":
        return bool((values == labels).all() or (task.kind == "binary" and (values == 1 - labels).all()))
    if values is not None and numbers(label) is not None:
        return bool((values == numbers(label)).all())
    return values is None and bool(pc.all(_same(column, label)).as_py())


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether two columns that are no numbers agree, null with null."""
    a, b = (pa.array(map(str, one.to_pylist())) for one in (left, right))
    return pa.chunked_array([pc.equal(a, b)])


def inconclusive(found: Mapping[str, Mapping[str, float]], rows: int) -> Iterator[str]:
    """What is wrong with a sample of rows that tells nothing of any feature, as of a label that is rare."""
    if found and all(np.isnan(of["at"]) for of in found.values()):
        yield (
            f"a sample of {rows:,} rows says nothing of any feature: {FEWEST} of each label are needed, with the "
            "value; raise `rows`"
        )


def too_well(found: Mapping[str, Mapping[str, float]], config: Leakage) -> Iterator[str]:
    """Which features tell the label too well, and by what."""
    for name, of in found.items():
        if of["at"] >= config.max_auc:
            told = f"{of['at']:.4f} (a coin: 0.5)"
            yield f"{name} alone tells the label with {told}, allowed is less than {config.max_auc:g}"
        if of["until"] >= config.max_auc:
            yield (
                f"what the hour before the asked instant changed in {name} tells the label with {of['until']:.4f}; are "
                "events stamped before they were known? Give the source known_at, or a lag"
            )
        if config.max_after is not None and of["after"] >= config.max_after:
            yield f"{_after(name, of)}, allowed is less than {config.max_after:g}"


def _notes(found: Mapping[str, Mapping[str, float]], config: Leakage) -> Iterator[str]:
    for name, of in found.items():
        if of["after"] >= config.report_after:
            yield f"{_after(name, of)}: a row stamped an hour early, or late known rows without known_at, would leak it"


def _after(name: str, of: Mapping[str, float]) -> str:
    return f"what the hour after the asked instant changed in {name} tells the label with {of['after']:.4f}"


def _known(value: float) -> float:
    return 0.5 if np.isnan(value) else value
