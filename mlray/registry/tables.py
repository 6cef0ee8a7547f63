"""The tables of the registry. A change here needs a migration: a test compares the two.

Instants are int64 microseconds since 1970 UTC. JSON is canonical text, so that one value has one spelling in
every database. Names cascade on update, so that a model can be renamed; nothing cascades on delete. Text that is
searched is ordered by code points in every database (PostgreSQL: COLLATE "C", see migration 0003).
"""

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Dialect,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, col

from mlray.registry.canonical import canonical_json

# Constraints carry names, because SQLite can only change a named one (Alembic's batch mode).
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class JsonText(TypeDecorator[Any]):
    """A JSON value kept as canonical text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:  # noqa: ARG002
        return canonical_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:  # noqa: ARG002
        return None if value is None else json.loads(value)


class RegistryTable(SQLModel, registry=registry(metadata=MetaData(naming_convention=NAMING))):
    """The root of the tables below, apart from any other SQLModel tables of the process."""


class ModelRow(RegistryTable, table=True):
    """A model; `last_version` is never taken back."""

    __tablename__ = "models"
    name: str = Field(primary_key=True, sa_type=String(128))
    last_version: int
    created_at: int = Field(sa_type=BigInteger, index=True)
    updated_at: int = Field(sa_type=BigInteger, index=True, sa_column_kwargs={"server_default": "0"})
    description: str = Field(default="", sa_type=Text, sa_column_kwargs={"server_default": text("''")})


class RetiredName(RegistryTable, table=True):
    """A name that a model had: its next model goes on after `last_version`, so that no number means two things.

    `became` is the model that was renamed, as it is called now; null where it was deleted.
    """

    __tablename__ = "retired_names"
    __table_args__ = (ForeignKeyConstraint(["became"], ["models.name"], onupdate="CASCADE", ondelete="SET NULL"),)
    name: str = Field(primary_key=True, sa_type=String(128))
    last_version: int
    became: str | None = Field(default=None, sa_type=String(128))


def _one_per_model(stage: str) -> Index:
    here = text(f"stage = '{stage}'")
    name = f"uq_model_versions_{stage.lower()}"
    return Index(name, "model", unique=True, sqlite_where=here, postgresql_where=here)


class VersionRow(RegistryTable, table=True):
    """A version. `row_version` counts its moves between stages: a move says which state it starts from.

    `author` is the user whose token registered it, or `os:<name>` where nobody had a token yet. `digest` is empty where
    nobody has verified any bytes; `source` is then where they are said to be.
    """

    __tablename__ = "model_versions"
    __table_args__ = (
        ForeignKeyConstraint(["model"], ["models.name"], onupdate="CASCADE"),
        CheckConstraint("version >= 1", name="positive"),
        Index("ix_model_versions_stage", "stage", "model", "version"),
        Index("ix_model_versions_service", "service", "model", "version"),
        Index("ix_model_versions_version", "version", "model"),
        Index("ix_model_versions_created_at", "created_at", "model", "version"),
        Index("ix_model_versions_updated_at", "updated_at", "model", "version"),
        Index("ix_model_versions_model_updated_at", "model", "updated_at", "version"),
        Index("ix_model_versions_model_created_at", "model", "created_at", "version"),
        _one_per_model("Canary"),
        _one_per_model("Production"),
    )
    model: str = Field(primary_key=True, sa_type=String(128))
    version: int = Field(primary_key=True)
    digest: str = Field(index=True, sa_type=String(64))
    service: str = Field(sa_type=Text)
    service_hash: str = Field(sa_type=Text)
    service_definition: str = Field(sa_type=Text)
    sources: dict[str, int] = Field(sa_type=JsonText)
    fingerprint: str = Field(sa_type=Text)
    spine: str = Field(sa_type=Text)
    features: list[str] = Field(sa_type=JsonText)
    label: str = Field(sa_type=Text)
    metrics: dict[str, float] = Field(sa_type=JsonText)
    run_id: str = Field(index=True, sa_type=Text)
    config: dict[str, Any] = Field(sa_type=JsonText)
    provenance: dict[str, Any] = Field(sa_type=JsonText)
    signature: dict[str, Any] = Field(sa_type=JsonText)
    source: str = Field(default="", index=True, sa_type=Text, sa_column_kwargs={"server_default": text("''")})
    description: str = Field(default="", sa_type=Text, sa_column_kwargs={"server_default": text("''")})
    author: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})
    stage: str = Field(default="None", sa_type=String(16), sa_column_kwargs={"server_default": "None"})
    row_version: int = Field(default=0, sa_column_kwargs={"server_default": "0"})


Index("ix_model_versions_newest_first", col(VersionRow.model), col(VersionRow.version).desc())


def _of_version() -> ForeignKeyConstraint:
    there = ["model_versions.model", "model_versions.version"]
    return ForeignKeyConstraint(["model", "version"], there, onupdate="CASCADE")


class AuthorRow(RegistryTable, table=True):
    """Who has ever registered these bytes, under any name; outlives the versions. `origin`: see `authors`."""

    __tablename__ = "authors"
    origin: str = Field(primary_key=True, sa_type=String(64))
    author: str = Field(primary_key=True, sa_type=Text)


class AliasRow(RegistryTable, table=True):
    __tablename__ = "aliases"
    __table_args__ = (_of_version(), Index("ix_aliases_alias", "alias", "model"))
    model: str = Field(primary_key=True, sa_type=String(128))
    alias: str = Field(primary_key=True, sa_type=String(128))
    version: int


class ModelTagRow(RegistryTable, table=True):
    """A word about a model. `start` is the value's first characters, for the index."""

    __tablename__ = "model_tags"
    __table_args__ = (
        ForeignKeyConstraint(["model"], ["models.name"], onupdate="CASCADE"),
        Index("ix_model_tags_key", "key", "start", "model"),
    )
    model: str = Field(primary_key=True, sa_type=String(128))
    key: str = Field(primary_key=True, sa_type=Text)
    start: str = Field(sa_type=Text)
    value: str = Field(sa_type=Text)


class VersionTagRow(RegistryTable, table=True):
    """A word about a version. `start` is the value's first characters, for the index."""

    __tablename__ = "version_tags"
    __table_args__ = (_of_version(), Index("ix_version_tags_key", "key", "start", "model", "version"))
    model: str = Field(primary_key=True, sa_type=String(128))
    version: int = Field(primary_key=True)
    key: str = Field(primary_key=True, sa_type=Text)
    start: str = Field(sa_type=Text)
    value: str = Field(sa_type=Text)


class AuditRow(RegistryTable, table=True):
    """One change, and the ledger of requests: (model, action, request) happens once.

    `before` and `after` are JSON objects, or null for nothing; the reason given for the change is in `after`, as
    `why`. A row outlives its model: no foreign key. `model` is empty where users or the policy change.
    """

    __tablename__ = "audit"
    __table_args__ = (UniqueConstraint("model", "action", "request"),)
    sequence: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at: int = Field(sa_type=BigInteger)
    who: str = Field(sa_type=Text)
    action: str = Field(sa_type=String(64))
    model: str = Field(sa_type=String(128))
    request: str = Field(sa_type=String(255))
    before: dict[str, Any] | None = Field(sa_type=JsonText)
    after: dict[str, Any] | None = Field(sa_type=JsonText)
    previous_hash: str = Field(sa_type=String(64))
    hash: str = Field(sa_type=String(64))


class AuditHead(RegistryTable, table=True):
    """The single row that orders the chain: its lock is held by whoever appends."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    sequence: int
    hash: str = Field(sa_type=String(64))


class UserRow(RegistryTable, table=True):
    """A person or a service. Who holds the 256 random bits whose SHA-256 is `token_sha256` acts in this name."""

    __tablename__ = "users"
    name: str = Field(primary_key=True, sa_type=String(128))
    token_sha256: str = Field(sa_type=String(64), unique=True)
    disabled: bool
    created_at: int = Field(sa_type=BigInteger)


class RoleRow(RegistryTable, table=True):
    """A role of a user. `granted` is the audit row that says so: an approval older than it does not count."""

    __tablename__ = "user_roles"
    __table_args__ = (ForeignKeyConstraint(["name"], ["users.name"]),)
    name: str = Field(primary_key=True, sa_type=String(128))
    role: str = Field(primary_key=True, sa_type=String(128))
    granted: int


class PolicyRow(RegistryTable, table=True):
    """A policy that was put in force; the newest one is. `id` is the number of its audit row."""

    __tablename__ = "policies"
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    revision: str = Field(sa_type=String(64))
    document: dict[str, Any] = Field(sa_type=JsonText)


class PromotionRow(RegistryTable, table=True):
    """A version's time in Canary or Production. `id` is the number of its audit row.

    `ended` is null while it lasts, then `replaced` (by the next one: a rollback may return to it) or `left`.
    """

    __tablename__ = "promotions"
    __table_args__ = (_of_version(),)
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    model: str = Field(index=True, sa_type=String(128))
    version: int
    stage: str = Field(sa_type=String(16))
    digest: str = Field(sa_type=String(64))
    policy_revision: str = Field(sa_type=String(64))
    ended: str | None = Field(default=None, sa_type=String(16))


class ApprovalRow(RegistryTable, table=True):
    """One person's word that these bytes may enter this stage under this policy. `id` is the number of its audit row.

    It is good for one promotion, whose number it then bears. `revoked_at` is when it was taken back, if it was.
    """

    __tablename__ = "approvals"
    __table_args__ = (
        _of_version(),
        ForeignKeyConstraint(["who"], ["users.name"]),
        ForeignKeyConstraint(["promotion"], ["promotions.id"]),
        Index("ix_approvals_model", "model", "version"),
    )
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    model: str = Field(sa_type=String(128))
    version: int
    digest: str = Field(sa_type=String(64))
    stage: str = Field(sa_type=String(16))
    policy_revision: str = Field(sa_type=String(64))
    role: str = Field(sa_type=String(128))
    who: str = Field(sa_type=String(128))
    at: int = Field(sa_type=BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)
    promotion: int | None = None
