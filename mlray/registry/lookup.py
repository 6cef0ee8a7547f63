"""Rows found by name, or an UnknownName that points at the nearest; and versions as callers see them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from mlray.errors import UnknownName
from mlray.registry.model_version import ModelVersion, VersionRecord
from mlray.registry.policy import Policy
from mlray.registry.reference import Reference
from mlray.registry.tables import AliasRow, ModelRow, PolicyRow, VersionRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_SUGGESTIONS = 20
_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def model_to_extend(session: Session, name: str, *, at: int) -> ModelRow:
    """The model's row, made if need be."""
    insert = _INSERT[session.get_bind().dialect.name](ModelRow)
    session.execute(insert.values(name=name, last_version=0, created_at=at).on_conflict_do_nothing())
    return model_row(session, name)


def model_row(session: Session, name: str) -> ModelRow:
    row = session.get(ModelRow, name)
    if row is None:
        raise UnknownName.of("model", name, names(session))
    return row


def version_row(session: Session, name: str, version: int) -> VersionRow:
    row = session.get(VersionRow, (name, version))
    if row is None:
        model_row(session, name)
        numbers = select(VersionRow.version).where(VersionRow.model == name)
        known = session.exec(numbers.order_by(col(VersionRow.version).desc()).limit(MAX_SUGGESTIONS))
        raise UnknownName.of("model version", f"{name}/{version}", (f"{name}/{number}" for number in known))
    return row


def alias_row(session: Session, name: str, alias: str) -> AliasRow:
    row = session.get(AliasRow, (name, alias))
    if row is None:
        model_row(session, name)
        known = session.exec(select(AliasRow.alias).where(AliasRow.model == name))
        raise UnknownName.of("alias", f"{name}@{alias}", (f"{name}@{one}" for one in known))
    return row


def in_stage(session: Session, name: str, stage: str) -> VersionRow | None:
    """The version of the model that is in a stage of which there is one at most."""
    return session.exec(select(VersionRow).where(VersionRow.model == name, VersionRow.stage == stage)).one_or_none()


def named(session: Session, reference: Reference) -> VersionRow:
    """The version that a reference names."""
    name = reference.model
    if reference.version is not None:
        return version_row(session, name, reference.version)
    if reference.alias is not None:
        return version_row(session, name, alias_row(session, name, reference.alias).version)
    row = in_stage(session, name, reference.stage or "")
    if row is None:
        model_row(session, name)
        raise UnknownName(f"no version of {name} is in {reference.stage}; `mlray versions {name}` shows where they are")
    return row


def names(session: Session) -> list[str]:
    return sorted(session.exec(select(ModelRow.name)))


def aliases(session: Session, name: str | None) -> dict[tuple[str, int], list[str]]:
    """Aliases by model and version."""
    query = select(AliasRow) if name is None else select(AliasRow).where(AliasRow.model == name)
    found: dict[tuple[str, int], list[str]] = {}
    for row in session.exec(query):
        found.setdefault((row.model, row.version), []).append(row.alias)
    return found


def policy_in_force(session: Session) -> Policy:
    """The policy that was put in force last, else the default."""
    row = session.exec(select(PolicyRow).order_by(col(PolicyRow.id).desc()).limit(1)).one_or_none()
    return Policy() if row is None else Policy.parse(row.document)


def seen(session: Session, row: VersionRow) -> ModelVersion:
    """The version as callers see it, with what the session has changed."""
    session.flush()
    return view(row, aliases(session, row.model).get((row.model, row.version), ()))


def view(row: VersionRow, aliases: Iterable[str]) -> ModelVersion:
    columns = row.model_dump(exclude={"model", "created_at", "features"})
    return ModelVersion(
        name=row.model,
        features=tuple(row.features),
        created_at=instant(row.created_at),
        aliases=tuple(sorted(aliases)),
        **columns,
    )


def columns(record: VersionRecord) -> dict[str, Any]:
    """What of a version's row its record says."""
    return vars(record) | {"features": list(record.features)}


def instant(microseconds: int) -> datetime:
    """Microseconds since 1970 UTC as an aware datetime."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    return (moment - EPOCH) // timedelta(microseconds=1)
