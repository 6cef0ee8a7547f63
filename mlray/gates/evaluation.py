"""The gate `evaluation`: is the model good enough on the test rows, as a whole, in every slice, and beside the version
that is in Production? Every figure that a rule looks at has a bootstrap interval; rules look at the figure itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlray.errors import ConfigError
from mlray.gates.bootstrap import interval, replicates, statistic
from mlray.gates.result import Result
from mlray.gates.scored import Scored
from mlray.gates.settings import Evaluation
from mlray.gates.slices import Slices, sliced
from mlray.training.task import BINARY, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Incumbent:
    """What is in Production. why: the reason for which it was not scored, None where it was."""

    reference: str
    why: str | None = None


NOT_ASKED = "no model was named with whose version in Production this one could be compared"
NOTHING_THERE = "there is no version in Production to compare with"


def evaluate(
    scored: Scored, task: Task, config: Evaluation, incumbent: Incumbent | None = None, alone: str = NOTHING_THERE
) -> Result:
    """The result. alone: what is said where there is no incumbent. ConfigError for a metric that is not the task's."""
    values = task.metrics(scored.labels, scored.predictions)
    metric = config.metric or task.metric
    if metric not in values:
        raise ConfigError.unknown_key("[gates.evaluation] metric", metric, values)
    judge = _Judge(scored, task, config, metric)
    whole = judge.whole(values)
    beside = judge.beside(incumbent)
    slices = [line for name in config.slices for line in judge.by_slice(name)]
    problems = [*judge.too_bad(values[metric]), *judge.too_bad_slices(slices), *judge.dropped(beside)]
    if not np.isfinite(values[metric]):
        problems.append(f"{metric} cannot be computed on the test rows")
    lost = int((~np.isfinite(scored.predictions.reshape(len(scored), -1)).all(axis=1)).sum()) if len(scored) else 0
    if lost:
        problems.append(f"the prediction of {lost:,} test rows is no number")
    notes = [f"Production is {incumbent.reference}: {incumbent.why}"] if incumbent and incumbent.why else []
    notes += [] if incumbent else [alone]
    return Result(
        passed=not problems,
        value=values[metric],
        threshold=config.threshold,
        problems=tuple(problems),
        notes=(*notes, *_not_judged(slices)),
        details={
            "metric": metric,
            "greater": judge.greater,
            "level": config.level,
            "rows": len(scored),
            "whole": whole,
            "slices": slices,
            "production": beside,
        },
    )


@dataclass(frozen=True, slots=True)
class _Judge:
    scored: Scored
    task: Task
    config: Evaluation
    metric: str

    @property
    def greater(self) -> bool:
        return self.task.greater(self.metric)

    def whole(self, values: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Every metric; the one of the rules with its interval."""
        found = {name: {"value": value} for name, value in values.items()}
        every = np.arange(len(self.scored))
        low, high = self._interval(every, 0)
        found[self.metric] |= {"low": low, "high": high}
        return found

    def by_slice(self, name: str) -> Iterator[dict[str, Any]]:
        slices = sliced(name, self.scored.columns.column(name), self.config.bins.get(name))
        for number, (one, rows) in enumerate(slices.each()):
            yield self._slice(slices, one, rows, number)

    def _slice(self, slices: Slices, name: str, rows: NDArray[np.int64], number: int) -> dict[str, Any]:
        line: dict[str, Any] = {"column": slices.column, "slice": name, "rows": len(rows)}
        why = self._too_few(rows)
        if why is not None:
            return line | {"value": None, "low": None, "high": None, "small": True, "why": why}
        value = self.task.metrics(self.scored.labels[rows], self.scored.predictions[rows])[self.metric]
        if not np.isfinite(value):
            why = f"{self.metric} is no number"
            return line | {"value": None, "low": None, "high": None, "small": False, "why": why}
        low, high = self._interval(rows, 1 + self.config.slices.index(slices.column), number)
        return line | {"value": value, "low": low, "high": high, "small": False, "why": None}

    def _too_few(self, rows: NDArray[np.int64]) -> str | None:
        """Why nothing can be said of these rows; None where they are enough."""
        if len(rows) < self.config.min_rows:
            return f"fewer than {self.config.min_rows} rows"
        yes = int((self.scored.labels[rows] > 0).sum())
        if self.task.kind == BINARY and self.metric == "auc" and min(yes, len(rows) - yes) < self.config.min_of_label:
            return f"fewer than {self.config.min_of_label} rows of label {int(yes < len(rows) - yes)}"
        return None

    def beside(self, incumbent: Incumbent | None) -> dict[str, Any] | None:
        """The incumbent on the same rows, and by how much this model is better (less than 0: worse)."""
        if incumbent is None:
            return None
        theirs = self.scored.theirs
        if theirs is None:
            return {"version": incumbent.reference, "why": incumbent.why}
        labels, ours = self.scored.labels, self.scored.predictions
        pair = [statistic(self.task, self.metric, labels, one) for one in (ours, theirs)]
        sign = 1.0 if self.greater else -1.0
        once = np.ones(len(labels), np.int64)
        value, other = (one(once) for one in pair)
        drawn = replicates(pair, len(labels), samples=self.config.samples, seed=(self.config.seed, 0))
        low, high = interval(sign * (drawn[:, 0] - drawn[:, 1]), self.config.level)
        better = sign * (value - other)
        return {"version": incumbent.reference, "value": other, "better": better, "low": low, "high": high}

    def too_bad(self, value: float) -> Iterator[str]:
        if self.config.threshold is not None and self._worse(value, self.config.threshold):
            yield f"{self.metric} is {value:.4f} on {len(self.scored):,} test rows, asked for {self.config.threshold:g}"

    def too_bad_slices(self, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Slices that are worse than asked for, and columns of which no slice could be asked."""
        asked = self.config.slice_threshold
        if asked is None:
            return
        for line in lines:
            if line["why"] is None and self._worse(line["value"], asked):
                where = f"{line['column']} = {line['slice']} ({line['rows']:,} rows)"
                yield f"{self.metric} is {line['value']:.4f} for {where}, asked for {asked:g}"
        for column, those in groupby(lines, key=lambda line: line["column"]):
            if all(line["why"] is not None for line in those):
                what = f"has enough rows to ask it for {self.metric} {asked:g}"
                yield f"no slice by {column} {what}, see min_rows and min_of_label in [gates.evaluation]"

    def dropped(self, beside: Mapping[str, Any] | None) -> Iterator[str]:
        allowed = self.config.max_drop_vs_production
        if allowed is None or beside is None or "better" not in beside:
            return
        if not beside["better"] >= -allowed:
            yield (
                f"{self.metric} is {-beside['better']:.4f} worse than {beside['version']} in Production on the same "
                f"rows ({beside['low']:+.4f} to {beside['high']:+.4f}), allowed are {allowed:g}"
            )

    def _worse(self, value: float, asked: float) -> bool:
        return not (value >= asked if self.greater else value <= asked)

    def _interval(self, rows: NDArray[np.int64], *seed: int) -> tuple[float, float]:
        one = statistic(self.task, self.metric, self.scored.labels[rows], self.scored.predictions[rows])
        drawn = replicates([one], len(rows), samples=self.config.samples, seed=(self.config.seed, *seed))
        return interval(drawn[:, 0], self.config.level)


def _not_judged(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The slices that no rule has looked at, by column and reason, the ten largest of each."""
    left: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["why"] is not None:
            left.setdefault((line["column"], line["why"]), []).append(line)
    for (column, why), those in left.items():
        largest = sorted(those, key=lambda line: -int(line["rows"]))
        shown = "; ".join(f"{line['slice']} ({line['rows']:,} rows)" for line in largest[:10])
        yield f"by {column}, not judged, as of {why}: {shown}{'; ...' if len(those) > 10 else ''}"
