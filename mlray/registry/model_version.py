"""What the registry says about a model and its versions; needs neither a database nor Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


class RunLike(Protocol):
    """What `register` reads of a training run."""

    @property
    def id(self) -> str: ...
    @property
    def checkpoint(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def service(self) -> str: ...
    @property
    def service_hash(self) -> str: ...
    @property
    def service_definition(self) -> str: ...
    @property
    def sources(self) -> Mapping[str, int]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def spine(self) -> str: ...
    @property
    def features(self) -> Sequence[str]: ...
    @property
    def label(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """What is known of a checkpoint before it has a version; mappings hold plain JSON values.

    `metrics` holds the last value of each, a float that may be NaN or infinite. `digest` is that of the stored bytes;
    where nobody has verified any it is empty, and `source` says where they are to be found. `provenance` is what the
    run says of its code and environment; of a training that went on from another checkpoint, `parent` names that one.
    """

    digest: str
    service: str
    service_hash: str
    service_definition: str
    sources: Mapping[str, int]
    fingerprint: str
    spine: str
    features: tuple[str, ...]
    label: str
    metrics: Mapping[str, float]
    run_id: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    signature: Mapping[str, Any]
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelVersion(VersionRecord):
    """A registered checkpoint, version 1, 2, 3 of a model; instants are in UTC, `aliases` are sorted.

    `author` is the user who registered it, `os:<name>` where nobody had a token yet. `row_version` counts its moves
    between stages; `updated_at` is when its stage, its description or its tags changed last.
    """

    name: str
    version: int
    author: str
    created_at: datetime
    updated_at: datetime
    aliases: tuple[str, ...]
    stage: str = "None"
    row_version: int = 0
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def verified(self) -> bool:
        """Whether its bytes are in the artifact store."""
        return self.digest != ""


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model: a name under which versions are registered, and what is said about them all.

    `last_version` is the highest number that was ever given under the name. `updated_at` is when the model itself, its
    aliases or the set of its versions changed last.
    """

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, int]
    last_version: int
    created_at: datetime
    updated_at: datetime


def record_of(run: RunLike, *, digest: str, signature: Mapping[str, Any]) -> VersionRecord:
    """The record of a run whose checkpoint is stored under `digest`."""
    return VersionRecord(
        digest=digest,
        service=run.service,
        service_hash=run.service_hash,
        service_definition=run.service_definition,
        sources=dict(run.sources),
        fingerprint=run.fingerprint,
        spine=run.spine,
        features=tuple(run.features),
        label=run.label,
        metrics=dict(run.metrics),
        run_id=run.id,
        config=dict(run.config),
        provenance=dict(run.provenance),
        signature=dict(signature),
    )
