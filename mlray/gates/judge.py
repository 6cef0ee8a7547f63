"""What is found out about a trained model, and where it is kept: every gate that looks at predictions."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlray.errors import CorruptArtifact, MlrayError, UnknownName
from mlray.gates import bias, evaluation, explanation
from mlray.gates.evaluation import Incumbent
from mlray.gates.report import Report, write_report
from mlray.gates.result import REPORT_FILE, Result, write_evidence
from mlray.gates.scored import MOST_ROWS, Chosen, Saved, Scored, pick, score
from mlray.gates.settings import Evaluation, Explanation, Gates
from mlray.gates.terms import Terms, rows_of
from mlray.registry.client import Registry
from mlray.registry.gates import write_gates
from mlray.training.model import Model, load_model
from mlray.training.run import Run
from mlray.training.task import Task

Results = dict[str, Result]


@dataclass(frozen=True, kw_only=True)
class Production:
    """The version in Production. folder: where its checkpoint lies now, None where it could not be had, for `why`."""

    reference: str
    folder: str | None = None
    why: str | None = None


def production_of(registry: Registry, model: str, folder: Path) -> Production | None:
    """What is in Production of a model, its checkpoint in `folder`; None where nothing is."""
    try:
        version = registry.get(f"{model}/Production")
    except UnknownName:
        return None
    try:
        return Production(reference=version.reference, folder=str(registry.download(version, folder)))
    except CorruptArtifact as error:
        return Production(reference=version.reference, why=f"{error}; not compared")


class Judge:
    """A trained model and the rows by which it is judged."""

    def __init__(self, terms: Terms, ts: Any, gates: Gates, run: Run) -> None:
        self.terms, self.ts, self.gates, self.run = terms, ts, gates, run
        self.checkpoint = Path(run.checkpoint)
        self.model = load_model(self.checkpoint)
        self.task = self.model.task

    def results(self, production: Production | None, alone: str = evaluation.NOTHING_THERE) -> Results:
        """What is found out about the model. alone: what is said where there is nothing in Production."""
        incumbent, folder = self._incumbent(production)
        found: Results = {}
        self.scored = self._score(folder)
        if self.gates.evaluation is not None:
            asked = self._with_threshold(self.gates.evaluation)
            found["evaluation"] = evaluation.evaluate(self.scored, self.task, asked, incumbent, alone)
        if self.gates.bias is not None:
            found["bias"] = bias.examine(self.scored, self.task, self.gates.bias)
        if self.gates.explanation is not None:
            found["explanation"] = self._explain(self.gates.explanation)
        return found

    def write(self, found: Results) -> Path:
        """Everything that was found, into the checkpoint; the report also into the run's folder: its path there."""
        rows = {name: int(self.run.metrics[f"rows_{name}"]) for name in ("train", "validation", "test")}
        write_evidence(self.checkpoint, found, rows, self.ts.service)
        report = self.checkpoint.parent / REPORT_FILE
        html = Report(run=self.run, task=self.task, results=found, scored=self.scored).html()
        write_report(html, [report, self.checkpoint / REPORT_FILE])
        stops = self.gates.stops
        short = {name: result.gate(f"{REPORT_FILE}#{name}", stop=stops(name)) for name, result in found.items()}
        write_gates(self.checkpoint, self.run.id, short)
        return report

    def _with_threshold(self, asked: Evaluation) -> Evaluation:
        metric = asked.metric or self.task.metric
        if asked.threshold is not None or metric != "auc":
            return asked
        return replace(asked, threshold=self.terms.min_auc)

    def _score(self, incumbent: str | None) -> Scored:
        columns = [
            *(self.gates.evaluation.slices if self.gates.evaluation else ()),
            *(self.gates.bias.groups if self.gates.bias else ()),
        ]
        share = MOST_ROWS / self.run.metrics["rows_test"]
        chosen = self._chosen("test", share, columns)
        theirs = None if incumbent is None else Saved.at(incumbent)
        return score(rows_of(self.ts), chosen, Saved.at(self.checkpoint), theirs)

    def _explain(self, asked: Explanation) -> Result:
        features = list(self.model.features)
        background = pick(rows_of(self.ts), self._chosen("train", self._share("train", asked.background), features))
        rows = pick(rows_of(self.ts), self._chosen("test", self._share("test", asked.rows), [*features, *asked.slices]))
        result = explanation.explain_model(self.model, background, rows, asked)
        explanation.write_explanation(self.checkpoint, result, background, features)
        return result

    def _share(self, part: str, rows: int) -> float:
        return rows / self.run.metrics[f"rows_{part}"]

    def _chosen(self, part: str, share: float, columns: list[str]) -> Chosen:
        return Chosen(
            label=str(self.ts.label),
            timestamp=self.ts.timestamp,
            between=self.terms.train if part == "train" else self.terms.test,
            share=share,
            columns=tuple(dict.fromkeys(columns)),
        )

    def _incumbent(self, production: Production | None) -> tuple[Incumbent | None, str | None]:
        """Who it is, and the folder of its checkpoint where it can be scored on these rows."""
        if production is None:
            return None, None
        why = production.why
        if production.folder is not None:
            why = unfit_at(production.folder, self.model, self.ts.schema)
        return Incumbent(reference=production.reference, why=why), None if why else production.folder


def unfit_at(folder: str, ours: Model, schema: pa.Schema) -> str | None:
    """The same of a saved model, which also may need code or packages that are not here as they were."""
    try:
        return unfit(load_model(folder), ours, schema)
    except MlrayError as error:
        return f"{error}; not compared"


def unfit(theirs: Model, ours: Model, schema: pa.Schema) -> str | None:
    """Why another model cannot be scored on rows of this schema; None where it can."""
    missing = [name for name in theirs.features if name not in schema.names]
    if missing:
        return f"it reads {', '.join(missing)}, which this training set does not have; not compared"
    if theirs.signature.label != ours.signature.label:
        return f"it predicts '{theirs.signature.label}', not '{ours.signature.label}'; not compared"
    a, b = theirs.task, ours.task
    if (a.kind, tuple(a.classes)) != (b.kind, tuple(b.classes)):
        return f"its task is {_named_task(a)}, this one's is {_named_task(b)}; not compared"
    return None


def _named_task(task: Task) -> str:
    return f"{task.kind} of {', '.join(task.classes)}" if task.classes else task.kind
