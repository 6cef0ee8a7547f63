"""Training as a user asks for it: the data is looked at before the loop, the model after it, and all that was found
goes into the checkpoint, before anybody can register it.

A gate whose failure stops the run (`stop = true`) raises: of the data before a step is trained, of the model when all
is written, so that the checkpoint can be looked into. `gates.json` says so, and the registry refuses it.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlray.errors import ConfigError, GateFailed
from mlray.gates import data_validation, leakage
from mlray.gates.evaluation import NOT_ASKED
from mlray.gates.expectations import load_suite, run_suite
from mlray.gates.judge import Judge, Production, Results
from mlray.gates.ready import check_ready
from mlray.gates.result import EVIDENCE_FILE, Result, read_evidence
from mlray.gates.scored import Chosen, pick
from mlray.gates.settings import DataValidation, Gates
from mlray.gates.terms import EARLIEST, LATEST, Terms, kept, rows_of
from mlray.registry.card_text import REQUIRED, card_gate, write_card
from mlray.training import sklearn_trainer
from mlray.training.launch import read_columns
from mlray.training.run import Run
from mlray.training.sklearn_trainer import SklearnTrainer


def train(
    config: Any,
    ts: Any,
    gates: Gates,
    *,
    loop: Callable[[Any], Run],
    production: Callable[[Path], Production | None] | None = None,
    card: Mapping[str, str] = {},
) -> Run:
    """Trains, with its gates. loop: trains on a training set as `config` says. production: puts the checkpoint of what
    is in Production into an empty folder; called after the loop; None: there is no model to compare with. card: what a
    person has to say about the model. GateFailed where a gate stops the run; ConfigError and SchemaError, before
    anything is trained, where a gate asks for what there is not, see `ready`.
    """
    kind = read_columns(ts, config, asked_kind(config)).task
    check_ready(gates, kind, list(ts.schema.names), production)
    terms, ts = Terms.of(config), kept(ts)
    found = data_results(terms, ts, kind, gates)
    refuse(found, gates, "before the first step: no model was trained")
    run = loop(ts)
    judge = Judge(terms, ts, gates, run)
    with TemporaryDirectory(dir=terms.storage, prefix=".production-") as folder:
        if production is None:
            found |= judge.results(None, NOT_ASKED)
        else:
            found |= judge.results(production(Path(folder, "model")))
    if card:
        write_card(run.checkpoint, card)
        found["model_card"] = card_result(card)
    report = judge.write(found)
    refuse(found, gates, f"see {report}")
    return run


def card_result(card: Mapping[str, str]) -> Result:
    """The registry's own result on the card, and what it lacks."""
    gate = card_gate(card)
    lacking = [field for field in REQUIRED if not card.get(field, "").strip()]
    return Result(
        passed=gate.passed,
        value=gate.value,
        threshold=gate.threshold,
        problems=tuple(f"[model.card] says nothing of '{field}'" for field in lacking),
        details=dict(card),
    )


def asked_kind(config: Any) -> str | None:
    """The kind of task that the configuration is for; None where the label's type says."""
    kind: str | None = sklearn_trainer.check(config) if isinstance(config, SklearnTrainer.Config) else config.task
    return kind


def data_results(terms: Terms, ts: Any, kind: str, gates: Gates) -> Results:
    """What is found out about the data of a kind of task."""
    found: Results = {}
    if gates.data_validation is not None:
        found["data_validation"] = _data_validation(terms, ts, gates.data_validation)
    if gates.leakage is not None:
        found["leakage"] = leakage.examine(ts, kind, gates.leakage, terms.ignore)
    return found


def refuse(found: Mapping[str, Result], gates: Gates, where: str) -> None:
    """GateFailed for the first gate that failed and stops the run."""
    for name, result in found.items():
        if not result.passed and gates.stops(name):
            told = "; ".join(result.problems[:3]) + ("; ..." if len(result.problems) > 3 else "")
            raise GateFailed(f"gate '{name}' {result.gate('', stop=True)}: {told}; {where}")


def previous_rows(storage: Path, service: str, run: str | None) -> tuple[str, int] | None:
    """The newest other run of the service whose data was not found wanting, and the rows of its training set: one that
    failed is no measure for the next, which would pass by being tried again.
    """
    files = sorted(storage.glob(f"*/model/{EVIDENCE_FILE}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files:
        name, evidence = file.parent.parent.name, read_evidence(file.parent)
        if name != run and evidence is not None and evidence["service"] == service:
            found = evidence["gates"].get("data_validation", {})
            if found.get("passed", True):
                return name, int(found.get("details", {}).get("rows", sum(evidence["rows"].values())))
    return None


def _data_validation(terms: Terms, ts: Any, asked: DataValidation) -> Result:
    blocks = rows_of(ts).to_arrow_refs()
    schema = None if asked.schema is None else _named(asked.schema, "schema")
    previous = previous_rows(terms.storage, ts.service, terms.run)
    result = data_validation.validate(blocks, schema, asked, previous)
    if asked.suite is None:
        return result
    chosen = Chosen(
        label=str(ts.label),
        timestamp=ts.timestamp,
        between=(EARLIEST, LATEST),
        share=asked.suite_rows / max(ts.count(), 1),
        columns=tuple(ts.schema.names),
    )
    rows = pick(rows_of(ts), chosen)
    is_file = asked.suite.endswith(".json")
    suite = load_suite(Path(asked.suite)) if is_file else _named(asked.suite, "suite")
    note = f"the suite of Great Expectations saw {rows.num_rows:,} of {ts.count():,} rows"
    return result.with_problems(run_suite(suite, rows), note)


def _named(path: str, key: str) -> Any:
    """What "module:attribute" names, as a recipe names things: from the working directory on."""
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[gates.data_validation] {key}: {path} cannot be imported: {error}") from error
