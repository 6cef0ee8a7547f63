"""Rows found by name, or an UnknownName that points at the nearest; and versions as callers see them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, col, func, select

from mlray.errors import UnknownName
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.policy import Policy
from mlray.registry.reference import MAX_VERSION, Reference, is_name
from mlray.registry.tables import (
    AliasRow,
    ModelRow,
    ModelTagRow,
    PolicyRow,
    RetiredName,
    VersionRow,
    VersionTagRow,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_SUGGESTIONS = 20
CHUNK = 500
Key = tuple[str, int]
Item = TypeVar("Item")
PLAIN = (
    "version", "digest", "service", "service_hash", "service_definition", "sources", "fingerprint", "spine",
    "label", "metrics", "run_id", "config", "provenance", "signature", "source", "author", "stage", "row_version",
    "description",
)  # fmt: skip
"""What of a version its row holds under the same name and as the same value."""


def model_row(session: Session, name: str) -> ModelRow:
    row = session.get(ModelRow, name) if is_name(name) else None
    if row is None:
        retired = session.get(RetiredName, name) if is_name(name) else None
        if retired is not None and retired.became is not None:
            raise UnknownName(f"there is no model '{name}' any more: it is called '{retired.became}' now")
        raise UnknownName.of("model", name, names(session))
    return row


def version_row(session: Session, name: str, version: int) -> VersionRow:
    row = session.get(VersionRow, (name, version)) if is_name(name) and 1 <= version <= MAX_VERSION else None
    if row is None:
        model_row(session, name)
        numbers = select(VersionRow.version).where(VersionRow.model == name)
        known = session.exec(numbers.order_by(col(VersionRow.version).desc()).limit(MAX_SUGGESTIONS))
        raise UnknownName.of("model version", f"{name}/{version}", (f"{name}/{number}" for number in known))
    return row


def alias_row(session: Session, name: str, alias: str) -> AliasRow:
    row = session.get(AliasRow, (name, alias)) if is_name(name) and is_name(alias) else None
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


def models(session: Session, rows: Sequence[ModelRow]) -> list[RegisteredModel]:
    """The models as callers see them."""
    here = [row.name for row in rows]
    pointing: dict[str, dict[str, int]] = {name: {} for name in here}
    tags: dict[str, dict[str, str]] = {name: {} for name in here}
    for some in _chunks(here):
        for alias in session.exec(select(AliasRow).where(col(AliasRow.model).in_(some))):
            pointing[alias.model][alias.alias] = alias.version
        for tag in session.exec(select(ModelTagRow).where(col(ModelTagRow.model).in_(some))):
            tags[tag.model][tag.key] = tag.value
    return [
        RegisteredModel(
            name=row.name, description=row.description, tags=tags[row.name], aliases=pointing[row.name],
            last_version=row.last_version, created_at=instant(row.created_at), updated_at=instant(row.updated_at),
        )
        for row in rows
    ]  # fmt: skip


def versions(session: Session, rows: Sequence[VersionRow]) -> list[ModelVersion]:
    """The versions as callers see them, with what the session has changed."""
    session.flush()
    pointing: dict[Key, list[str]] = {(row.model, row.version): [] for row in rows}
    tags: dict[Key, dict[str, str]] = {key: {} for key in pointing}
    for some in _chunks(list(pointing)):
        for alias in session.exec(select(AliasRow).where(_among(AliasRow, some))):
            pointing[alias.model, alias.version].append(alias.alias)
        for tag in session.exec(select(VersionTagRow).where(_among(VersionTagRow, some))):
            tags[tag.model, tag.version][tag.key] = tag.value
    return [_view(row, pointing[row.model, row.version], tags[row.model, row.version]) for row in rows]


def version_rows(session: Session, keys: Sequence[Key]) -> list[VersionRow]:
    """The versions of these keys that there are, by name and number."""
    found: list[VersionRow] = []
    for some in _chunks(keys):
        found += session.exec(select(VersionRow).where(_among(VersionRow, some)))
    return sorted(found, key=lambda row: (row.model, row.version))


def policy_in_force(session: Session) -> Policy:
    """The policy that was put in force last, else the default."""
    row = session.exec(select(PolicyRow).order_by(col(PolicyRow.id).desc()).limit(1)).one_or_none()
    return Policy() if row is None else Policy.parse(row.document)


def policy_since(session: Session) -> int:
    """The number of the audit row that put the policy in force; 0 for the default that nobody has."""
    return session.exec(select(func.max(PolicyRow.id))).one() or 0


def seen(session: Session, row: VersionRow) -> ModelVersion:
    """The version as callers see it, with what the session has changed."""
    return versions(session, [row])[0]


def _view(row: VersionRow, aliases: Iterable[str], tags: Mapping[str, str]) -> ModelVersion:
    return ModelVersion(
        name=row.model,
        features=tuple(row.features),
        created_at=instant(row.created_at),
        updated_at=instant(row.updated_at),
        aliases=tuple(sorted(aliases)),
        tags=tags,
        **{name: getattr(row, name) for name in PLAIN},
    )


def _among(table: type[AliasRow | VersionTagRow | VersionRow], keys: Sequence[Key]) -> ColumnElement[bool]:
    """One term per model: SQLite uses no index for pairs."""
    numbers: dict[str, list[int]] = {}
    for model, version in keys:
        numbers.setdefault(model, []).append(version)
    return or_(*(and_(col(table.model) == model, col(table.version).in_(some)) for model, some in numbers.items()))


def _chunks(keys: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Databases take some thousands of values in a statement."""
    return (keys[at : at + CHUNK] for at in range(0, len(keys), CHUNK))


def instant(microseconds: int) -> datetime:
    """Microseconds since 1970 UTC as an aware datetime."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    return (moment - EPOCH) // timedelta(microseconds=1)
