"""What the tables hold, by kind and key, in the words in which `replay` tells it from the audit: every column of them.

What is left: the audit itself, which its chain covers, and `alembic_version`, which no change of the registry writes.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from sqlmodel import Session, select

from mlray.registry.labels import START
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
    with closing(session.exec(select(VersionRow).execution_options(yield_per=BATCH))) as rows:
        return {(row.model, row.version): hash_of_row(row) for row in rows}


def _descriptions(session: Session) -> Held:
    of_models = session.exec(select(ModelRow.name, ModelRow.description).where(ModelRow.description != ""))
    here = (VersionRow.model, VersionRow.version, VersionRow.description)
    of_versions = session.exec(select(*here).where(VersionRow.description != ""))
    return {(model,): said for model, said in of_models} | {(m, v): said for m, v, said in of_versions}


def _tags(session: Session) -> Held:
    of_models = {(tag.model, tag.key): _value(tag) for tag in session.exec(select(ModelTagRow))}
    return of_models | {(t.model, t.version, t.key): _value(t) for t in session.exec(select(VersionTagRow))}


def _value(tag: ModelTagRow | VersionTagRow) -> Any:
    """The value, and the start that the index holds where that is another one."""
    return tag.value if tag.start == tag.value[:START] else (tag.value, tag.start)


def _instants(of_models: Any, of_versions: Any) -> Callable[[Session], Held]:
    def held(session: Session) -> Held:
        models = session.exec(select(ModelRow.name, of_models))
        versions = session.exec(select(VersionRow.model, VersionRow.version, of_versions))
        return {(model,): at for model, at in models} | {(model, number): at for model, number, at in versions}

    return held


def _authors(session: Session) -> Held:
    held: dict[str, set[str]] = {}
    for row in session.exec(select(AuthorRow)):
        held.setdefault(row.origin, set()).add(row.author)
    return held


def _approvals(session: Session) -> Held:
    return {
        one.id: (
            one.model, one.version, one.stage, one.role, one.who, one.digest, one.policy_revision,
            one.at, one.revoked_at, one.promotion,
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
    "user": lambda session: {
        one.name: (one.token_sha256, one.disabled, one.created_at) for one in session.exec(select(UserRow))
    },
    "role": lambda session: {(one.name, one.role): one.granted for one in session.exec(select(RoleRow))},
    "policy": lambda session: {one.id: (one.revision, one.document) for one in session.exec(select(PolicyRow))},
    "approval": _approvals,
    "promotion": _promotions,
    "creation of": _instants(ModelRow.created_at, VersionRow.created_at),
    "last change of": _instants(ModelRow.updated_at, VersionRow.updated_at),
}
