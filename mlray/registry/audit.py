"""The chain of changes: each row holds the hash of the one before, so that no row changes or leaves unseen.

Callers of the registry cannot get around it. Whoever owns the database can rewrite the whole chain; what that
person cannot do is change one row and keep the hashes that were noted elsewhere. `replay` holds the tables against it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, select

from mlray.errors import RegistryUnavailable
from mlray.registry.canonical import canonical_json, sha256_text
from mlray.registry.tables import AuditHead, AuditRow

GENESIS = "0" * 64
UNCHANGED = "unchanged"
"""In the `after` of a row: the request found nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What was done: `request` names the call, so that its repetition is known as such."""

    who: str
    action: str
    model: str
    request: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def append(session: Session, change: Change, *, at: int) -> AuditRow:
    """Adds the change to the session's transaction as the next row of the chain; `at` in microseconds UTC."""
    head = locked_head(session)
    row = AuditRow(
        sequence=head.sequence + 1, at=at, who=change.who, action=change.action, model=change.model,
        request=change.request, before=change.before, after=change.after, previous_hash=head.hash, hash="",
    )  # fmt: skip
    row.hash = row_hash(row)
    head.sequence, head.hash = row.sequence, row.hash
    session.add(row)
    session.add(head)
    return row


def locked_head(session: Session) -> AuditHead:
    """The end of the chain, locked until the transaction ends: whoever holds it is the only one that appends."""
    head = session.exec(select(AuditHead).with_for_update()).one_or_none()
    if head is None:
        raise RegistryUnavailable("the audit chain has no head: the database was changed from outside; restore it")
    return head


def applied(session: Session, *, model: str, action: str, request: str) -> AuditRow | None:
    """The row that this very request has written before."""
    same = (AuditRow.model == model, AuditRow.action == action, AuditRow.request == request)
    return session.exec(select(AuditRow).where(*same)).one_or_none()


def row_hash(row: AuditRow) -> str:
    """SHA-256 over every column but the hash itself."""
    return sha256_text(canonical_json(row.model_dump(exclude={"hash"})))


def first_break(rows: Iterable[AuditRow], head: AuditHead | None) -> str | None:
    """What is wrong first with the rows in order of sequence; None for a whole chain that ends at `head`."""
    sequence, previous = 0, GENESIS
    for row in rows:
        if row.sequence != sequence + 1:
            return f"audit row {sequence + 1} is missing"
        if row.previous_hash != previous or row.hash != row_hash(row):
            return f"audit row {row.sequence} was changed"
        sequence, previous = row.sequence, row.hash
    if head is None:
        return f"the end of the audit is lost; {sequence} rows are there"
    if (sequence, previous) != (head.sequence, head.hash):
        return f"audit ends at row {sequence}; {head.sequence} were written"
    return None
