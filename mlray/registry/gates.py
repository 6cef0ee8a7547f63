"""Gates: what a run found out about the model it made, kept in the model's own artifact.

A result is a line of `gates.json`, which the run writes beside the weights. The digest of the artifact covers it, so
nobody adds, edits or removes one later without making another artifact, whose approvals start from nothing. The
file names the run and the digest of the other files, so it counts for no other model. The registry reads results
from the verified artifact and takes them from nobody: no call, no tag and no row carries one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlray.errors import GateFailed, SchemaError
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.canonical import canonical_json
from mlray.registry.manifest import Manifest, manifest_of
from mlray.registry.plain import is_number, read_json
from mlray.registry.reference import checked_name

GATES_FILE = "gates.json"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate's result: whether it passed, the value that was found, what was asked for, where to read more; stop: a
    model that failed it cannot be registered.
    """

    passed: bool
    value: float | None = None
    threshold: float | None = None
    link: str = ""
    stop: bool = False

    def __str__(self) -> str:
        asked = "" if self.threshold is None else f", asked for {self.threshold:.6g}"
        found = "" if self.value is None else f" with {self.value:.6g}"
        return ("passed" if self.passed else "failed") + found + asked


def write_gates(checkpoint: str | Path, run_id: str, results: Mapping[str, Gate]) -> None:
    """Writes the results of the run into its checkpoint, over what was there; the checkpoint is complete otherwise."""
    root = Path(checkpoint)
    for name in results:
        checked_name("gate", name)
    text = canonical_json(
        {"run": run_id, "model": _model_digest(manifest_of(root)), "gates": {k: asdict(v) for k, v in results.items()}}
    )
    aside = root.parent / f".{root.name}.{GATES_FILE}"
    aside.write_text(text)
    aside.replace(root / GATES_FILE)


def gates_of(artifacts: ArtifactStore, manifest: Manifest, run_id: str) -> dict[str, Gate]:
    """The results that an artifact holds, none where it has no `gates.json`.

    SchemaError where the file is malformed, or is of another run or another model.
    """
    plain = read_json(artifacts, manifest, GATES_FILE)
    if plain is None and all(file.path != GATES_FILE for file in manifest.files):
        return {}
    try:
        results = {checked_name("gate", name): _gate(result) for name, result in plain["gates"].items()}
        run, model = plain["run"], plain["model"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"{GATES_FILE} of artifact {manifest.digest} is not what a run writes: {error}") from error
    if (run, model) != (run_id, _model_digest(manifest)):
        raise SchemaError(
            f"{GATES_FILE} of artifact {manifest.digest} is of run {run!r} and the files {model}; this is run "
            f"{run_id!r} with the files {_model_digest(manifest)}: a result counts for the model that its run made"
        )
    return results


def refuse_stopped(results: Mapping[str, Gate], run_id: str) -> None:
    """GateFailed where a gate has failed that the run was told to stop at."""
    for name, gate in results.items():
        if gate.stop and not gate.passed:
            raise GateFailed(
                f"run {run_id} cannot be registered: gate '{name}' {gate}, and the run was told to stop there; see "
                f"{gate.link or 'its report'} in the checkpoint"
            )


def _model_digest(manifest: Manifest) -> str:
    return Manifest(tuple(file for file in manifest.files if file.path != GATES_FILE)).digest


def _gate(plain: Any) -> Gate:
    gate = Gate(**plain)
    numbers = all(value is None or is_number(value) for value in (gate.value, gate.threshold))
    flags = type(gate.passed) is bool and type(gate.stop) is bool
    if not flags or type(gate.link) is not str or not numbers:
        raise TypeError(f"{plain} is no result")
    return gate
