"""What is known of the labels before training: counts, merged from any blocks in any order; and what is refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.errors import ConfigError, TrainingFailed
from mlray.training.columns import number_column
from mlray.training.task import BINARY, MULTICLASS, REGRESSION, Task, class_column, class_order

MAX_CLASSES = 1000
FAR_TOO_MANY = 100 * MAX_CLASSES
SHOWN = 100
"""Of the values that no label may have."""
NAMES = ("0", "1")
"""Of the classes of a binary task."""


@dataclass(slots=True)
class Labels:
    """Per part: rows, those without a label, and of classes how often each occurs, of numbers the least and greatest;
    `other` are values that no label may have, as they print.
    """

    missing: Counter[int] = field(default_factory=Counter)
    classes: Counter[tuple[int, str]] = field(default_factory=Counter)
    least: dict[int, float] = field(default_factory=dict)
    greatest: dict[int, float] = field(default_factory=dict)
    other: Counter[str] = field(default_factory=Counter)

    def add(self, more: "Labels") -> None:
        self.missing.update(more.missing)
        self.classes.update(more.classes)
        for strange in list(more.other)[: SHOWN - len(self.other)]:
            self.other[strange] += more.other[strange]
        for part, value in more.least.items():
            self.least[part] = min(value, self.least.get(part, value))
        for part, value in more.greatest.items():
            self.greatest[part] = max(value, self.greatest.get(part, value))

    def names(self, part: int) -> set[str]:
        """The classes that occur in a part."""
        return {name for (where, name), count in self.classes.items() if where == part and count}


def observe(kind: str, column: pa.ChunkedArray, part: NDArray[np.int8]) -> Labels:
    """The labels of one block, by the part of each row."""
    if kind == MULTICLASS:
        return _observe_classes(class_column(column), part)
    values = number_column(column)
    unknown = np.isnan(values)
    seen = Labels(missing=Counter(part[unknown].tolist()))
    if kind == BINARY:
        for name, value in zip(NAMES, (0.0, 1.0), strict=True):
            counts = Counter(part[values == value].tolist())
            seen.classes.update({(where, name): count for where, count in counts.items()})
        strange = values[~unknown & (values != 0) & (values != 1)]
    else:
        finite = np.isfinite(values)
        for where in np.unique(part[finite]).tolist():
            here = values[finite & (part == where)]
            seen.least[where], seen.greatest[where] = float(here.min()), float(here.max())
        strange = values[~unknown & ~finite]
    seen.other.update(map(str, np.unique(strange)[:SHOWN].tolist()))
    return seen


def _observe_classes(names: pa.ChunkedArray, part: NDArray[np.int8]) -> Labels:
    seen = Labels(missing=Counter(part[np.asarray(names.is_null().to_numpy())].tolist()))
    for where in np.unique(part).tolist():
        counted = pc.value_counts(names.filter(pa.array(part == where)).drop_null())
        counts = zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True)
        seen.classes.update({(where, name): count for name, count in counts})
    return seen


def task_for(kind: str, dtype: pa.DataType, seen: Labels) -> Task:
    """The task, its classes being those of the training part, part 0."""
    return Task(kind=kind, classes=class_order(seen.names(0), dtype) if kind == MULTICLASS else ())


def check(kind: str, label: str, seen: Labels, rows: Mapping[int, int], parts: Sequence[str]) -> None:
    """TrainingFailed for labels from which nothing can be learned or measured; part p, called parts[p], has rows[p]."""
    if seen.other:
        shown = ", ".join(list(seen.other)[:10])
        raise TrainingFailed(f"label '{label}' {_WANTED[kind]}; it also has {shown}{_HINT[kind]}")
    every = range(len(parts))
    missing = sum(seen.missing[part] for part in every)
    if missing:
        total = sum(rows[part] for part in every)
        raise TrainingFailed(f"label '{label}' is null in {missing} of {total} rows; filter them out of the spine")
    for part in every:
        only = _constant(kind, seen, part)
        if only is not None:
            raise TrainingFailed(
                f"label '{label}' is {only} in all {rows[part]} rows of the {parts[part]} part; "
                "there is nothing to tell apart: check the label or move the split"
            )
    if kind == MULTICLASS:
        _check_classes(label, seen, parts)


_WANTED = {BINARY: "must be 0 or 1 (or false or true)", REGRESSION: "must be finite"}
_HINT = {
    BINARY: "; train with task='multiclass' where it names classes, with task='regression' where it is a quantity",
    REGRESSION: "; filter them out of the spine",
}


def _constant(kind: str, seen: Labels, part: int) -> str | None:
    """The one value that a part's labels have, None where they have several (or none)."""
    if kind == REGRESSION:
        least, greatest = seen.least.get(part), seen.greatest.get(part)
        return f"{least:g}" if least is not None and least == greatest else None
    names = seen.names(part)
    return next(iter(names)) if len(names) == 1 else None


def check_classes(seen: Labels) -> None:
    """TrainingFailed where the labels are so many that they are no classes; asked while blocks are still counted."""
    if len(seen.classes) > FAR_TOO_MANY:
        raise TrainingFailed(
            f"the label has more than {FAR_TOO_MANY} values, and a task of several classes at most {MAX_CLASSES}; "
            "train with task='regression' where it is a quantity, or group the rare ones"
        )


def _check_classes(label: str, seen: Labels, parts: Sequence[str]) -> None:
    known = seen.names(0)
    if len(known) > MAX_CLASSES:
        raise TrainingFailed(
            f"label '{label}' has {len(known)} classes in the {parts[0]} part, at most {MAX_CLASSES} are taken; "
            "train with task='regression' where it is a quantity, or group the rare ones"
        )
    for part in range(1, len(parts)):
        new = sorted(seen.names(part) - known)
        if new:
            raise TrainingFailed(
                f"label '{label}' has classes in the {parts[part]} part that the {parts[0]} part does not have: "
                f"{', '.join(new[:10])}; move the split, or leave their rows out of the spine"
            )


def class_weights(setting: str | Mapping[str, float] | None, task: Task, seen: Labels) -> tuple[float, ...]:
    """The factor on the losses of each class by its number, () for none. "balanced": rows / (classes * rows of the
    class), of the training part, scikit-learn's rule. A mapping is by the class's name, of a binary task '0' and '1'; a
    class that it leaves out has 1.
    """
    if setting is None:
        return ()
    if task.kind == REGRESSION:
        raise ConfigError("training: class_weights is set and the task is a regression, which has no classes")
    names = task.classes or NAMES
    if not isinstance(setting, Mapping):
        counts = [seen.classes[0, name] for name in names]
        return tuple(sum(counts) / (len(counts) * count) for count in counts)
    for name in setting:
        if name not in names:
            raise ConfigError.unknown_key("training: class_weights", name, names)
    return tuple(float(setting.get(name, 1.0)) for name in names)
