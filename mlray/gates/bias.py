"""The gate `bias`: does the model decide alike for the groups that are to be treated alike? Measures of Fairlearn.

- demographic parity: the share of rows decided yes; the difference between the groups with the most and the least.
- equalised odds: that share among rows whose label is yes, and among those whose label is no; the larger difference
  (Hardt, Price and Srebro, Equality of Opportunity in Supervised Learning, 2016).

A group of few rows tells of chance, and one without a row, or without a row of a label, has no share at all: Fairlearn
would give 0 for it. Such a group is named as small or empty and takes no part in a difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlray.errors import ConfigError
from mlray.gates.extra import imported
from mlray.gates.result import Result
from mlray.gates.scored import Scored
from mlray.gates.settings import Bias
from mlray.gates.slices import Slices, crossed, sliced
from mlray.training.task import Task

PARITY, ODDS = "demographic_parity", "equalized_odds"


def examine(scored: Scored, task: Task, config: Bias) -> Result:
    """The result; value and threshold are the difference that is furthest beyond what is allowed, and its limit.

    ConfigError where the task decides nothing: a regression, or several classes without `positive`.
    """
    fairness = imported("fairlearn.metrics", extra="fairness", who="[gates.bias]")
    yes, decided = outcomes(scored, task, config)
    single = [sliced(name, scored.columns.column(name), config.bins.get(name)) for name in config.groups]
    grouped = [*single, *(crossed(pair) for pair in combinations(single, 2) if config.crossings)]
    tables = [_compared(fairness, one, yes, decided, config, i >= len(single)) for i, one in enumerate(grouped)]
    allowed = {PARITY: config.max_demographic_parity, ODDS: config.max_equalized_odds}
    found = [(t, name, t[name], limit) for t in tables for name, limit in allowed.items()]
    _, _, value, threshold = max(found, key=lambda one: -np.inf if one[2] is None else one[2] - one[3])
    problems = [*_problems(found), *_unknown(tables)]
    return Result(
        passed=not problems,
        value=value,
        threshold=threshold,
        problems=tuple(problems),
        notes=tuple(_left_out(tables)),
        details={"rows": len(scored), "decision": config.decision, "allowed": allowed, "groups": tables},
    )


def outcomes(scored: Scored, task: Task, config: Bias) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(n,) whether the label is yes, and whether the model says so."""
    if task.kind == "regression":
        raise ConfigError("[gates.bias] is about yes-or-no decisions and the task is a regression; leave it out")
    if task.kind == "binary":
        return scored.labels > 0, scored.predictions >= config.decision
    if config.positive is None or config.positive not in task.classes:
        raise ConfigError(f"[gates.bias] positive={config.positive!r}; it must be one of {', '.join(task.classes)}")
    place = list(task.classes).index(config.positive)
    return scored.labels == place, scored.predictions.argmax(axis=1) == place


def _compared(
    fairness: Any,
    slices: Slices,
    yes: NDArray[np.bool_],
    decided: NDArray[np.bool_],
    config: Bias,
    is_crossed: bool,
) -> dict[str, Any]:
    """Per group its rows and shares, and the differences between the groups that are large enough."""
    lines = [_group(name, yes[rows], decided[rows], config) for name, rows in slices.each()]
    large = [line["rows"] >= config.min_rows for line in lines]
    of_yes = [ok and line["yes"] >= config.min_of_label for ok, line in zip(large, lines, strict=True)]
    of_no = [ok and line["rows"] - line["yes"] >= config.min_of_label for ok, line in zip(large, lines, strict=True)]
    measures = {
        "selection_rate": (fairness.selection_rate, large),
        "true_positive_rate": (fairness.true_positive_rate, of_yes),
        "false_positive_rate": (fairness.false_positive_rate, of_no),
    }
    differences: dict[str, float | None] = {}
    for name, (measure, taking_part) in measures.items():
        rates, differences[name] = _rates(fairness, measure, slices, yes, decided, taking_part)
        for line, rate in zip(lines, rates, strict=True):
            line[name] = rate
    rates_of_odds = ("true_positive_rate", "false_positive_rate")
    known = [one for name in rates_of_odds if (one := differences[name]) is not None]
    return {
        "column": slices.column,
        "crossed": is_crossed,
        "groups": lines,
        PARITY: differences["selection_rate"],
        ODDS: max(known) if known else None,
        "unknown": ", ".join(name.replace("_", " ") for name in rates_of_odds if differences[name] is None),
    }


def _group(name: str, yes: NDArray[np.bool_], decided: NDArray[np.bool_], config: Bias) -> dict[str, Any]:
    size = "empty" if not len(yes) else "small" if len(yes) < config.min_rows else "compared"
    return {"group": name, "rows": len(yes), "yes": int(yes.sum()), "decided": int(decided.sum()), "size": size}


def _rates(
    fairness: Any,
    measure: Any,
    slices: Slices,
    yes: NDArray[np.bool_],
    decided: NDArray[np.bool_],
    taking_part: Sequence[bool],
) -> tuple[list[float | None], float | None]:
    """The measure of each group that takes part, and their largest difference, None of fewer than two."""
    inside = np.array(taking_part, np.bool_)[slices.codes]
    if sum(taking_part) < 2:
        return [None] * len(taking_part), None
    frame = fairness.MetricFrame(
        metrics=measure,
        y_true=yes[inside].astype(np.int64),
        y_pred=decided[inside].astype(np.int64),
        sensitive_features=slices.codes[inside],
    )
    rates = {int(code): float(rate) for code, rate in frame.by_group.items()}
    return [rates.get(code) for code in range(len(taking_part))], float(frame.difference(method="between_groups"))


_LEAST = "min_rows and min_of_label in [gates.bias]"


def _problems(found: Sequence[tuple[Mapping[str, Any], str, float | None, float]]) -> Iterator[str]:
    for table, name, value, limit in found:
        if value is None and not table["crossed"]:
            yield f"{name} by {table['column']}: fewer than two groups have enough rows to be compared, see {_LEAST}"
        elif value is not None and value > limit:
            yield f"{name} by {table['column']} differs by {value:.4f}, allowed are {limit:g}"


def _unknown(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Equalised odds are of both labels: of one alone they are not known, and nothing passes."""
    for table in tables:
        if table[ODDS] is not None and table["unknown"] and not table["crossed"]:
            yield f"{ODDS} by {table['column']}: fewer than two groups have enough rows for a {table['unknown']}"


def _left_out(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for table in tables:
        for size in ("small", "empty"):
            names = [line["group"] for line in table["groups"] if line["size"] == size]
            if names:
                yield f"by {table['column']}, {size} and not compared: {_shown(names)}"
        for rate, label in (("true_positive_rate", "yes"), ("false_positive_rate", "no")):
            names = [one["group"] for one in table["groups"] if one["size"] == "compared" and one[rate] is None]
            if names:
                told = f"too few rows labelled {label}, {rate.replace('_', ' ')} not compared"
                yield f"by {table['column']}, {told}: {_shown(names)}"


def _shown(names: Sequence[str]) -> str:
    return "; ".join(names[:10]) + ("; ..." if len(names) > 10 else "")
