"""The tables of the registry. A change here needs a migration: a test compares the two.

Instants are int64 microseconds since 1970 UTC. JSON is canonical text, so that one value has one spelling in
every database. Names cascade on update, which leaves room for renaming a model; nothing cascades on delete.
"""

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Dialect,
    ForeignKeyConstraint,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

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
    """A model. Its row is locked by every change of the model; `last_version` is never taken back."""

    __tablename__ = "models"
    name: str = Field(primary_key=True, sa_type=String(128))
    last_version: int
    created_at: int = Field(sa_type=BigInteger)


class VersionRow(RegistryTable, table=True):
    __tablename__ = "model_versions"
    __table_args__ = (
        ForeignKeyConstraint(["model"], ["models.name"], onupdate="CASCADE"),
        CheckConstraint("version >= 1", name="positive"),
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
    run_id: str = Field(sa_type=Text)
    config: dict[str, Any] = Field(sa_type=JsonText)
    provenance: dict[str, Any] = Field(sa_type=JsonText)
    signature: dict[str, Any] = Field(sa_type=JsonText)
    author: str = Field(sa_type=Text)
    created_at: int = Field(sa_type=BigInteger)


class AliasRow(RegistryTable, table=True):
    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "version"], ["model_versions.model", "model_versions.version"], onupdate="CASCADE"
        ),
    )
    model: str = Field(primary_key=True, sa_type=String(128))
    alias: str = Field(primary_key=True, sa_type=String(128))
    version: int


class AuditRow(RegistryTable, table=True):
    """One change, and the ledger of requests: (model, action, request) happens once.

    `before` and `after` are JSON objects, or null for nothing. A row outlives its model: no foreign key.
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
