"""What the audit tells: of everything, or of one model under all the names that it has had."""

import json
from contextlib import closing
from typing import Any

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, col, select

from mlray.registry.audit import first_break
from mlray.registry.lookup import instant
from mlray.registry.reference import checked_name
from mlray.registry.replay import state_break
from mlray.registry.tables import AuditHead, AuditRow


def changes(session: Session, name: str | None, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
    """The changes of one model or all, oldest first: behind the row `after`, at most `limit`."""
    query = select(AuditRow).where(AuditRow.sequence > after).order_by(col(AuditRow.sequence)).limit(limit)
    if name is not None:
        query = query.where(_under_its_names(session, checked_name("model", name)))
    return [_told(row) for row in session.exec(query)]


def what_is_wrong(session: Session) -> str | None:
    """What is wrong first with the chain, or with the tables against what it tells; None for nothing."""
    rows = select(AuditRow).order_by(col(AuditRow.sequence)).execution_options(yield_per=1000)
    with closing(session.exec(rows)) as chain:
        broken = first_break(chain, session.exec(select(AuditHead)).one_or_none())
    if broken is not None:
        return broken
    try:
        with closing(session.exec(rows)) as chain:
            return state_break(session, chain)
    except json.JSONDecodeError as error:
        return f"a table was changed without a row: it holds {error.doc!r:.100} where JSON is due"


def _under_its_names(session: Session, name: str) -> ColumnElement[bool]:
    """The rows under the name, and those under the names that it had, each until it was given up."""
    spans: list[ColumnElement[bool]] = [col(AuditRow.model) == name]
    until: int | None = None
    while True:
        renamed = select(AuditRow).where(AuditRow.model == name, AuditRow.action == "renamed")
        renamed = renamed if until is None else renamed.where(col(AuditRow.sequence) < until)
        row = session.exec(renamed.order_by(col(AuditRow.sequence).desc()).limit(1)).first()
        if row is None:
            return or_(*spans)
        name, until = (row.before or {})["name"], row.sequence
        spans.append(and_(col(AuditRow.model) == name, col(AuditRow.sequence) < until))


def _told(row: AuditRow) -> dict[str, Any]:
    after = dict(row.after or {})
    return row.model_dump() | {"at": instant(row.at), "why": after.pop("why", ""), "after": after or None}
