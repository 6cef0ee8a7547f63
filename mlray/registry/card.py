"""The model card of a version: what it is for, what it was made of and judged by, who approved it, where it must not
be used. Everything but the purpose, the owner and the limits is taken from what the registry and the run recorded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mlray.errors import MlrayError, SchemaError
from mlray.features.catalog import service_from_text
from mlray.features.words import described
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.card_text import REQUIRED, CardText
from mlray.registry.gates import Gate
from mlray.registry.lineage import UNKNOWN, code_of
from mlray.registry.lookup import instant
from mlray.registry.manifest import Manifest
from mlray.registry.model_version import ModelVersion
from mlray.registry.people import Approval
from mlray.registry.plain import read_json
from mlray.registry.render import html, markdown

EVIDENCE_FILE = "evidence.json"
"""Where the gates of a run say all that they found."""

_NO_SCORES = ("rows_", "unseen_", "seconds", "epochs", "best_epoch")
"""What a run counts besides."""

Row = dict[str, str]


@dataclass(frozen=True)
class Section:
    """A part of the card: paragraphs by their heading, facts by name, and a table of rows with the same columns."""

    title: str
    texts: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    table: Sequence[Row] = ()


@dataclass(frozen=True)
class Card:
    """A model card of texts only; `to_json` gives it as plain JSON values."""

    reference: str
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """As GitHub-flavoured Markdown; what people wrote is escaped."""
        return markdown(self)

    def html(self) -> str:
        """As one page that needs nothing else, escaped."""
        return html(self)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def card_of(
    version: ModelVersion,
    text: CardText,
    gates: Mapping[str, Gate],
    evidence: Mapping[str, Any],
    approvals: Sequence[Approval],
) -> Card:
    """The card. evidence: what `evidence.json` of the checkpoint holds, empty without one."""
    found = evidence.get("gates", {})
    evaluation = found.get("evaluation", {}).get("details", {})
    sections = (
        Section("Version", facts=_identity(version)),
        Section("What people say", texts=_said(text)),
        Section("Data", facts=_data(version), table=list(_tables(version))),
        Section("Features", table=list(_features(version))),
        Section("Metrics", table=list(_metrics(version, evaluation.get("whole", {})))),
        Section("Metrics by slice", table=[_flat(line) for line in evaluation.get("slices", ())]),
        Section("What it goes by", table=list(_importance(found.get("explanation", {}).get("details", {})))),
        Section("Metrics by group", table=list(_groups(found.get("bias", {}).get("details", {})))),
        Section("Gates", table=[_gate(name, gate, found.get(name, {})) for name, gate in sorted(gates.items())]),
        Section("Approvals", table=[_approval(one) for one in approvals]),
        Section("Where it comes from", facts=_origin(version)),
    )
    return Card(version.reference, sections)


def evidence_of(artifacts: ArtifactStore, manifest: Manifest) -> dict[str, Any]:
    """What the gates found, read from the verified artifact; empty where the run left nothing."""
    plain = read_json(artifacts, manifest, EVIDENCE_FILE)
    try:
        return {} if plain is None else dict(plain)
    except (ValueError, TypeError) as error:
        raise SchemaError(f"{EVIDENCE_FILE} of artifact {manifest.digest} is not what a run writes: {error}") from error


def _identity(version: ModelVersion) -> Row:
    return {
        "stage": version.stage,
        "aliases": ", ".join(version.aliases) or "none",
        "registered": f"{version.created_at.isoformat(timespec='seconds')} by {version.author}",
        "digest": version.digest or "none: its bytes were never verified",
        "predicts": version.label or UNKNOWN,
    }


def _said(text: CardText) -> Row:
    """The required fields first, and those that nobody filled."""
    return {name: text.get(name, "").strip() or "Not said." for name in dict.fromkeys([*REQUIRED, *text])}


def _data(version: ModelVersion) -> Row:
    recorded = version.provenance.get("training_set") or {}
    spine = recorded.get("spine") or {}
    where = f"Delta table {spine['path']} version {spine['version']}" if "path" in spine else ""
    kept = f"kept in the lake as {spine['kept']}" if "kept" in spine else ""
    rows = {name.removeprefix("rows_"): count for name, count in version.metrics.items() if name.startswith("rows_")}
    parts = ", ".join(f"{part} {count:,.0f}" for part, count in rows.items())
    span = [instant(moment).isoformat(timespec="seconds") for moment in spine.get("span") or ()]
    return {
        "feature service": f"{version.service} {version.service_hash}" if version.service else UNKNOWN,
        "spine": where or kept or version.spine or UNKNOWN,
        "rows": f"{spine['rows']:,}" if "rows" in spine else UNKNOWN,
        "rows by part": parts or UNKNOWN,
        "period": f"{span[0]} to {span[1]}" if span else UNKNOWN,
        "fingerprint of the training set": version.fingerprint or UNKNOWN,
    }


def _tables(version: ModelVersion) -> Iterator[Row]:
    service = _service(version)
    paths = {source.name: source.path for source in service.sources} if service else {}
    for name, number in sorted(version.sources.items()):
        yield {"source": name, "table": paths.get(name, ""), "Delta version": str(number)}


def _features(version: ModelVersion) -> Iterator[Row]:
    service = _service(version)
    texts = described(service) if service else {}
    inputs = version.signature.get("inputs", {})
    recorded = (version.provenance.get("training_set") or {}).get("types", {})
    for name in version.features:
        kind = str(inputs.get(name) or recorded.get(name, ""))
        yield {"feature": name, "type": kind, "what it is": texts.get(name, "")}


def _service(version: ModelVersion) -> Any:
    try:
        return service_from_text(version.service_definition) if version.service_definition else None
    except (MlrayError, ValueError, KeyError, TypeError):  # of a release that spelt definitions in another way
        return None


def _metrics(version: ModelVersion, whole: Mapping[str, Any]) -> Iterator[Row]:
    for name, found in whole.items():
        yield {"metric": f"test {name}", "value": _figure(found.get("value")), "interval": _interval(found)}
    for name, value in sorted(version.metrics.items()):
        if name.removeprefix("test_") not in whole and not name.startswith(_NO_SCORES):
            yield {"metric": name, "value": _figure(value), "interval": ""}


def _flat(line: Mapping[str, Any]) -> Row:
    head = {"column": str(line["column"]), "slice": str(line["slice"]), "rows": f"{line['rows']:,}"}
    why = line.get("why") or ("too few rows" if line.get("small") else None)
    value = f"not judged: {why}" if why else _figure(line.get("value"))
    return {**head, "value": value, "interval": _interval(line)}


def _importance(explanation: Mapping[str, Any]) -> Iterator[Row]:
    """The features by what they add to a prediction, the mean of their sizes, the largest first."""
    for name, value in explanation.get("importance", {}).items():
        yield {"feature": name, "adds or takes, on average": _figure(value), "unit": explanation.get("unit", "")}


def _groups(bias: Mapping[str, Any]) -> Iterator[Row]:
    """The rates of each group of people that the gate `bias` compared."""
    for table in bias.get("groups", ()):
        for line in table["groups"]:
            head = {"column": str(table["column"]), "group": str(line["group"]), "rows": f"{line['rows']:,}"}
            rates = ("selection_rate", "true_positive_rate", "false_positive_rate")
            yield head | {name.replace("_", " "): _figure(line.get(name)) for name in rates}


def _gate(name: str, gate: Gate, evidence: Mapping[str, Any]) -> Row:
    said = [*evidence.get("problems", ()), *evidence.get("notes", ())]
    return {
        "gate": name,
        "result": "passed" if gate.passed else "failed",
        "found": _figure(gate.value),
        "asked for": _figure(gate.threshold),
        "why": "; ".join(said),
    }


def _approval(one: Approval) -> Row:
    return {
        "who": one.who,
        "role": one.role,
        "stage": one.stage,
        "when": one.at.isoformat(timespec="seconds"),
        "counts": "yes" if one.void is None else f"no: {one.void}",
    }


def _origin(version: ModelVersion) -> Row:
    code = code_of(version.provenance)
    packages = ", ".join(f"{name} {number}" for name, number in code["packages"].items())
    lines = {name: text for name, text in code.items() if isinstance(text, str)}
    config = json.dumps(version.config, sort_keys=True, default=str)
    copied = {"copy of": str(version.provenance["copy_of"])} if "copy_of" in version.provenance else {}
    return {"run": version.run_id, **copied, **lines, "packages": packages or UNKNOWN, "configuration": config}


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found.get("low"), found.get("high")
    return "" if low is None or high is None else f"{_figure(low)} to {_figure(high)}"


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, int | float) else str(value)
