"""What the REST API takes and gives, as OpenAPI tells it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from mlray.registry.identity import Caller
from mlray.registry.janitor import LONGEST_GRACE
from mlray.registry.manifest import Manifest
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.people import Approval, User
from mlray.registry_server.kinds import Asked, Int64, Json, Name, Sha256, Text, number, plain

Why = Annotated[Text, Field(default="", description="the reason, kept in the audit")]
Plain = Annotated[dict[str, Any], BeforeValidator(plain)]
Tags = dict[Text, Text]
Metric = Annotated[float, BeforeValidator(number)]
MAX_FILES = 10_000
"""Of one artifact that is made over HTTP: each is looked for in the store while the caller waits."""
Number = float | str
"""A number, or one of the texts NaN, Infinity and -Infinity, which JSON has no numbers for."""


class NewModel(Asked):
    name: Name
    description: Text = ""
    tags: Tags = Field(default_factory=dict)


class ModelChange(Asked):
    """One change: another name, or another description."""

    name: Name | None = None
    description: Text | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.name is None) == (self.description is None):
            raise ValueError("either 'name' or 'description' is due; a call makes one change, whole or not at all")
        return self


class Described(Asked):
    description: Text


class TagValue(Asked):
    value: Text


class NewVersion(Asked):
    """A version of an artifact that was put into the store before (see `artifacts`): what is known of how it was made.
    The model's signature and the results of its gates are read from the artifact itself.
    """

    digest: Sha256 = Field(description="the SHA-256 of the artifact's manifest")
    run_id: Text = ""
    service: Text = ""
    service_hash: Text = ""
    service_definition: Text = ""
    sources: dict[Text, Int64] = Field(default_factory=dict)
    fingerprint: Text = ""
    spine: Text = ""
    features: list[Text] = Field(default_factory=list)
    label: Text = ""
    metrics: dict[Text, Metric] = Field(default_factory=dict, description="NaN, Infinity and -Infinity as texts")
    config: Json = Field(default_factory=dict)
    provenance: Json = Field(default_factory=dict)
    alias: Name | None = None
    allow_pickle: bool = Field(False, description="a version with a pickle in it never goes beyond Staging")
    description: Text = ""
    tags: Tags = Field(default_factory=dict)


class NewSource(Asked):
    """A version whose bytes lie elsewhere. Nobody has verified them, so it stays in None unless the policy is open."""

    source: Text = Field(examples=["runs:/8c1f/model"])
    run_id: Text = ""
    description: Text = ""
    tags: Tags = Field(default_factory=dict)


class Copied(Asked):
    """The copy starts in None, without approvals."""

    of: Text = Field(description="a version by reference", examples=["fraud/3"])


class Promotion(Asked):
    stage: Text = Field(examples=["Production"])
    why: Why


class NewApproval(Asked):
    stage: Text = Field(examples=["Production"])
    role: Text = Field(examples=["risk_officer"])
    why: Why


class Rollback(Asked):
    version: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, description="the version that is to leave Production; null for whichever is there"
    )
    why: Why


class AliasTarget(Asked):
    version: int = Field(ge=1, lt=2**31)


class NewUser(Asked):
    """The caller makes the token, 256 random bits, and tells its SHA-256 only. So no answer holds one, and none is lost
    with an answer; for a token that the user has lost, PUT /v1/users/NAME/token takes the SHA-256 of another.
    """

    name: Name
    token_sha256: Sha256
    roles: list[Name] = Field(default_factory=list, max_length=100)


class NewToken(Asked):
    token_sha256: Sha256


class PolicyChange(Asked):
    policy: Json
    why: Why


class Model(BaseModel):
    """A registered model."""

    name: str
    description: str
    tags: dict[str, str]
    aliases: dict[str, int] = Field(description="alias to version")
    last_version: int = Field(description="the highest number ever given; 0 for none")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, model: RegisteredModel) -> Self:
        return cls.model_validate(vars(model) | {"tags": dict(model.tags), "aliases": dict(model.aliases)})


class Version(BaseModel):
    """A version of a model; its ETag is its row version, which counts its moves between stages."""

    reference: str = Field(examples=["fraud/3"])
    name: str
    version: int
    stage: str
    row_version: int
    aliases: list[str]
    author: str
    created_at: datetime
    updated_at: datetime
    digest: str = Field(description="of the artifact; empty where nobody has verified bytes")
    source: str = Field(description="where the bytes lie, if not here; empty if here")
    description: str
    tags: dict[str, str]
    run_id: str
    service: str
    service_hash: str
    service_definition: str
    sources: dict[str, int] = Field(description="source to Delta version")
    fingerprint: str
    spine: str
    features: list[str]
    label: str
    metrics: Annotated[dict[str, Number], BeforeValidator(plain)]
    config: Plain
    provenance: Plain
    signature: Plain

    @classmethod
    def of(cls, version: ModelVersion) -> Self:
        known = {name: getattr(version, name) for name in cls.model_fields}
        return cls.model_validate({k: dict(v) if isinstance(v, Mapping) else v for k, v in known.items()})


class ModelPage(BaseModel):
    models: list[Model]
    next_page_token: str | None = Field(None, description="asks for what follows; null after the last page")


class VersionPage(BaseModel):
    versions: list[Version]
    next_page_token: str | None = Field(None, description="asks for what follows; null after the last page")


class GivenApproval(BaseModel):
    """Somebody's word that a version may enter a stage; `void` says why it does not count now, null where it does."""

    stage: str
    role: str
    who: str
    at: datetime
    digest: str
    policy_revision: str
    void: str | None

    @classmethod
    def of(cls, approval: Approval) -> Self:
        return cls.model_validate({name: getattr(approval, name) for name in cls.model_fields})


class Approvals(BaseModel):
    approvals: list[GivenApproval] = Field(description="oldest first")


class Lineage(BaseModel):
    lineage: Plain = Field(description="a text per name, or names again")


class StoredFile(BaseModel):
    path: str
    size: int
    sha256: str


class Artifact(BaseModel):
    """The files of an artifact; its digest is the SHA-256 of its manifest."""

    digest: str
    files: list[StoredFile]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        files = [StoredFile(path=file.path, size=file.size, sha256=file.sha256) for file in manifest.files]
        return cls(digest=manifest.digest, files=files)


class FileEntry(Asked):
    path: Text
    size: int = Field(ge=0, lt=2**63)
    sha256: Sha256


class NewArtifact(Asked):
    files: list[FileEntry] = Field(min_length=1, max_length=MAX_FILES)


class Blob(BaseModel):
    sha256: str
    size: int


class Sweep(Asked):
    """grace_seconds: how old what goes must be."""

    grace_seconds: int = Field(7 * 86400, ge=0, le=LONGEST_GRACE.days * 86400)
    dry_run: bool = False
    why: Why


class SweptAway(BaseModel):
    """What went, or would go: artifacts that no version names, blobs of no artifact, files of uploads cut off."""

    artifacts: int
    blobs: int
    partial: int
    bytes: int


class Person(BaseModel):
    name: str
    roles: list[str]
    disabled: bool

    @classmethod
    def of(cls, user: User) -> Self:
        return cls(name=user.name, roles=list(user.roles), disabled=user.disabled)


class Me(BaseModel):
    """Who the token's holder is; `http` without a user, where the registry has none yet."""

    name: str
    roles: list[str]

    @classmethod
    def of(cls, caller: Caller) -> Self:
        return cls(name=caller.name.removeprefix("os:") or "http", roles=sorted(caller.roles))


class People(BaseModel):
    users: list[Person]


class PolicyInForce(BaseModel):
    revision: str
    policy: Plain


class AuditEntry(BaseModel):
    """One change: who, what, before, after, why, and the hash of the row before."""

    sequence: int
    at: datetime
    who: str
    action: str
    model: str
    request: str
    before: Plain | None
    after: Plain | None
    why: str
    previous_hash: str
    hash: str


class Audit(BaseModel):
    rows: list[AuditEntry] = Field(description="oldest first")


class AuditCheck(BaseModel):
    whole: bool
    broken: str | None = Field(None, description="what is wrong first")


class Health(BaseModel):
    status: str = Field(examples=["ok"])
