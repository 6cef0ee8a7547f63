"""Where a version comes from, down to the versions of the tables, and who has said what about it: as a tree."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlray.registry.gates import Gate
from mlray.registry.model_version import ModelVersion
from mlray.registry.people import Approval

Tree = dict[str, Any]
"""A name per branch: a text, or a tree."""
UNKNOWN = "not recorded"


def lineage_of(version: ModelVersion, gates: Mapping[str, Gate], approvals: Sequence[Approval]) -> Tree:
    """All that is recorded of the version; what is not known says so."""
    return {
        "version": {
            "reference": version.reference,
            "stage": version.stage,
            "aliases": ", ".join(version.aliases) or "none",
            "author": version.author,
            "registered": version.created_at.isoformat(timespec="seconds"),
            "digest": version.digest or f"none: nobody has verified the bytes at {version.source}",
            "copy of": str(version.provenance.get("copy_of", "nothing")),
            "description": version.description,
        },
        "run": {"id": version.run_id, **code_of(version.provenance), "configuration": _texts(version.config)},
        "data": {
            "feature service": f"{version.service}, {version.service_hash}",
            "tables": {name: f"Delta version {number}" for name, number in sorted(version.sources.items())},
            "spine": version.spine,
            "label": version.label,
            "features": str(len(version.features)),
            "fingerprint of the training set": version.fingerprint,
        },
        "metrics": _texts(version.metrics),
        "gates": {name: str(gate) for name, gate in sorted(gates.items())} or {"none": "the run left no results"},
        "approvals": {_given(one): _counts(one) for one in approvals} or {"none": "nobody has approved it"},
    }


def code_of(provenance: Mapping[str, Any]) -> Tree:
    """The code and what it ran with, as far as they are recorded."""
    state = {True: ", with changes that no commit holds", False: "", None: ""}[provenance.get("dirty")]
    lock = provenance.get("lock_sha256")
    return {
        "code": f"commit {provenance['commit']}{state}" if provenance.get("commit") else UNKNOWN,
        "lock file": f"{provenance.get('lock_file')}, {lock}" if lock else UNKNOWN,
        "python": str(provenance.get("python") or UNKNOWN),
        "environment": str(provenance.get("environment_sha256") or UNKNOWN),
        "packages": _texts(provenance.get("packages") or {}),
        "parent checkpoint": str(provenance.get("parent") or "none recorded"),
    }


def _given(one: Approval) -> str:
    return f"{one.who} as {one.role} for {one.stage}, {one.at.isoformat(timespec='seconds')}"


def _counts(one: Approval) -> str:
    return "counts" if one.void is None else f"does not count now: {one.void}"


def _texts(values: Mapping[str, Any]) -> Tree:
    return {name: str(value) for name, value in sorted(values.items())}
