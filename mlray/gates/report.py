"""The training report: one HTML file without scripts and without anything to fetch, of a run and its gates.

It is written into the run's folder, for who looks at runs, and into the checkpoint, so that it is versioned with it. It
says nothing of when and how fast: the same run gives the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from mlray.gates import plot
from mlray.gates.curves import by_decile, confusion, roc
from mlray.gates.result import Result
from mlray.gates.scored import Scored
from mlray.training.run import Run
from mlray.training.task import Task

_TITLES = {
    "data_validation": "Data validation",
    "leakage": "Leakage",
    "evaluation": "Evaluation",
    "bias": "Bias",
    "explanation": "Explanation",
    "model_card": "Model card",
}
_FIGURES = {
    "data_validation": "problems, at most",
    "leakage": "what one feature tells, below",
    "bias": "difference, at most",
    "explanation": "error, at most",
    "model_card": "fields that are said, at least",
}
_PARTS = ("train", "validation", "test")
SHOWN = 10
"""Lines of a long table that are not folded away."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report is made of."""

    run: Run
    task: Task
    results: Mapping[str, Result]
    scored: Scored

    def html(self) -> str:
        """The page."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("mlray.gates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"figure": figure, "bar": bar, "largest": largest}
        page: str = environment.get_template("report.html.j2").render(
            run=self.run,
            results=self.results,
            titles=_TITLES,
            figures=self.figures(),
            parts=_PARTS,
            metrics=self.metrics(),
            shown=SHOWN,
            details={name: result.details for name, result in self.results.items()},
            losses=Markup(self.losses()),
            charts=[Markup(chart) for chart in self.charts()],
            confusion=self.confused(),
            importance=Markup(self.important()),
        )
        return page

    def figures(self) -> dict[str, str]:
        """Per gate, what its value is, and on which side of what is asked for it has to be."""
        if "evaluation" not in self.results:
            return _FIGURES
        asked = self.results["evaluation"].details
        return _FIGURES | {"evaluation": f"{asked['metric']}, at {'least' if asked['greater'] else 'most'}"}

    def metrics(self) -> dict[str, dict[str, float]]:
        """By metric and part; what is of no part stands under its own name alone. Nothing of how long it took."""
        found: dict[str, dict[str, float]] = {}
        for name, value in sorted(self.run.metrics.items()):
            part = next((p for p in _PARTS if name.startswith(f"{p}_") or name.endswith(f"_{p}")), "")
            if not name.startswith("seconds"):
                short = name.removeprefix(f"{part}_").removesuffix(f"_{part}") if part else name
                found.setdefault(short, {})[part] = value
        return found

    def losses(self) -> str:
        """Loss of training, and the validation's where the task has one in the same unit, by epoch."""
        names = ("train_loss", "validation_log_loss")
        series = {
            name.replace("_", " "): [(float(line.get("epoch", i + 1)), line[name]) for i, line in enumerate(history)]
            for name in names
            if (history := [line for line in self.run.history if name in line])
        }
        return plot.lines("Loss by epoch", series, "epoch", "loss")

    def charts(self) -> list[str]:
        """What the task has: ROC and calibration of scores; predictions beside values."""
        labels, predictions = self.scored.labels, self.scored.predictions
        if self.task.kind == "regression":
            deciles = {"tenths of the test rows": by_decile(labels, predictions)}
            return [plot.lines("Predicted and actual", deciles, "mean prediction", "mean label")]
        curves = {name: (np.asarray(labels == place, np.float64), scores) for name, place, scores in self._classes()}
        return [
            plot.lines(
                "ROC",
                {n: roc(*c) for n, c in curves.items()},
                "false positive rate",
                "true positive rate",
                diagonal=True,
            ),
            plot.lines(
                "Calibration",
                {n: by_decile(*c) for n, c in curves.items()},
                "mean score",
                "share of yes",
                diagonal=True,
            ),
        ]

    def confused(self) -> list[tuple[str, list[int]]] | None:
        """Name and counts by what was decided, per label; None where nothing is decided."""
        if self.task.kind == "regression":
            return None
        predictions = self.scored.predictions
        many = predictions.ndim == 2
        decided = predictions.argmax(axis=1) if many else predictions >= 0.5
        names = list(self.task.classes) if many else ["0", "1"]
        counts = confusion(self.scored.labels, np.asarray(decided, np.float64), len(names))
        return [(name, line) for name, line in zip(names, counts.tolist(), strict=True)]

    def important(self) -> str:
        """The twenty features that count most, where there is an explanation."""
        if "explanation" not in self.results:
            return ""
        found: Mapping[str, float] = self.results["explanation"].details["importance"]
        return plot.bars("What the model goes by", dict(list(found.items())[:20]), "mean |SHAP value|")

    def _classes(self) -> Sequence[tuple[str, int, Any]]:
        """Name, number and scores; of several classes the five of the most rows."""
        if self.scored.predictions.ndim == 1:
            return [("model", 1, self.scored.predictions)]
        rows = np.bincount(self.scored.labels.astype(np.int64), minlength=len(self.task.classes))
        most = sorted(np.argsort(-rows, kind="stable")[:5].tolist())
        return [(self.task.classes[i], i, self.scored.predictions[:, i]) for i in most]


def write_report(html: str, paths: Sequence[Path]) -> None:
    """The page at each path, whole or not at all."""
    for path in paths:
        aside = path.parent.parent / f".{path.parent.name}.{path.name}"
        aside.write_text(html, encoding="utf-8")
        aside.replace(path)


def largest(lines: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """The lines in their order by value, the largest first; of several values by the first two."""

    def size(line: tuple[str, Any]) -> float:
        values = [line[1]] if isinstance(line[1], int | float) else [line[1]["at"], line[1]["until"]]
        return max((float(v) for v in values if v is not None and np.isfinite(v)), default=float("-inf"))

    return sorted(lines.items(), key=size, reverse=True)


def figure(value: Any) -> str:
    """A number for people: four digits after the point, thousands apart; '-' for none."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.2g}"


def bar(line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Markup:
    """An interval as a small picture between the least and the largest of all lines; nothing where it is not known."""
    low, value, high = (_known(line.get(name)) for name in ("low", "value", "high"))
    ends = [end for one in lines for name in ("low", "high") if (end := _known(one.get(name))) is not None]
    if low is None or value is None or high is None or max(ends) <= min(ends):
        return Markup("")
    a, b, c = (4 + 152 * (one - min(ends)) / (max(ends) - min(ends)) for one in (low, value, high))
    return Markup(
        f'<svg width="160" height="14" aria-hidden="true"><line x1="0" y1="7" x2="160" y2="7" class="grid"/>'
        f'<line x1="{a:.1f}" y1="7" x2="{c:.1f}" y2="7" stroke="#0b5fa5" stroke-width="3"/>'
        f'<line x1="{b:.1f}" y1="1" x2="{b:.1f}" y2="13" stroke="#1b1b1b" stroke-width="2"/></svg>'
    )


def _known(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None
