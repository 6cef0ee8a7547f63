"""What the tables hold, by kind and key, in the words in which `replay` tells it from the audit."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlmodel import Session, select

from mlray.registry.record import hash_of_row
from mlray.registry.tables import (
    AliasRow,
    ApprovalRow,
    AuthorRow,
    ModelRow,
    ModelTagRow,
    PolicyRow,
    PromotionRow,
    RetiredName,
    RoleRow,
    UserRow,
    VersionRow,
    VersionTagRow,
)

Held = dict[Any, Any]
BATCH = 1000


def _versions(session: Session) -> Held:
    columns = (VersionRow.model, VersionRow.version, VersionRow.stage, VersionRow.row_version, VersionRow.digest)
    rows = session.execute(select(*columns, VersionRow.author))  # type: ignore[call-overload]  # six columns
    return {(model, version): tuple(rest) for model, version, *rest in rows}


def _records(session: Session) -> Held:
    rows = session.exec(select(VersionRow).execution_options(yield_per=BATCH))
    return {(row.model, row.version): hash_of_row(row) for row in rows}


def _descriptions(session: Session) -> Held:
    of_models = session.exec(select(ModelRow.name, ModelRow.description).where(ModelRow.description != ""))
    here = (VersionRow.model, VersionRow.version, VersionRow.description)
    of_versions = session.exec(select(*here).where(VersionRow.description != ""))
    return {(model,): said for model, said in of_models} | {(m, v): said for m, v, said in of_versions}


def _tags(session: Session) -> Held:
    of_models = {(tag.model, tag.key): tag.value for tag in session.exec(select(ModelTagRow))}
    return of_models | {(t.model, t.version, t.key): t.value for t in session.exec(select(VersionTagRow))}


def _authors(session: Session) -> Held:
    held: dict[str, set[str]] = {}
    for row in session.exec(select(AuthorRow)):
        held.setdefault(row.origin, set()).add(row.author)
    return held


def _approvals(session: Session) -> Held:
    return {
        one.id: (
            one.model, one.version, one.stage, one.role, one.who, one.digest, one.policy_revision,
            one.revoked_at is not None, one.promotion,
        )
        for one in session.exec(select(ApprovalRow))
    }  # fmt: skip


def _promotions(session: Session) -> Held:
    return {
        one.id: (one.model, one.version, one.stage, one.digest, one.policy_revision, one.ended)
        for one in session.exec(select(PromotionRow))
    }


HELD: Mapping[str, Callable[[Session], Held]] = {
    "model": lambda session: {one.name: one.last_version for one in session.exec(select(ModelRow))},
    "retired name": lambda session: {
        one.name: (one.last_version, one.became) for one in session.exec(select(RetiredName))
    },
    "version": _versions,
    "record": _records,
    "author": _authors,
    "description": _descriptions,
    "tag": _tags,
    "alias": lambda session: {(one.model, one.alias): one.version for one in session.exec(select(AliasRow))},
    "user": lambda session: {one.name: (one.token_sha256, one.disabled) for one in session.exec(select(UserRow))},
    "role": lambda session: {(one.name, one.role): one.granted for one in session.exec(select(RoleRow))},
    "policy": lambda session: {one.id: (one.revision, one.document) for one in session.exec(select(PolicyRow))},
    "approval": _approvals,
    "promotion": _promotions,
}
