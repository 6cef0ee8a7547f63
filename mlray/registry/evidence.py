"""What the rules read of a version's bytes, before they take the lock: bytes take longer than a lock should be held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlray.registry.artifacts import ArtifactStore
from mlray.registry.gates import Gate, gates_of
from mlray.registry.pickles import pickles_of


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was read from a version's artifact, every byte verified."""

    digest: str
    gates: Mapping[str, Gate]
    pickles: Sequence[str] = ()


def evidence_for(artifacts: ArtifactStore, digest: str, run_id: str, stage: str) -> Evidence:
    """What the artifact says of itself for a way into the stage; nothing where nobody has its bytes."""
    if stage == "Archived" or not digest:  # the way out is open to a damaged artifact too
        return Evidence(digest=digest, gates={})
    manifest = artifacts.verify(digest)
    gates = gates_of(artifacts, manifest, run_id)
    return Evidence(digest=digest, gates=gates, pickles=pickles_of(artifacts, manifest))
