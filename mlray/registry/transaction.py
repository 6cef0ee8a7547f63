"""A change under way: the database session, who asks, and the audit rows that go with it."""

from typing import Any

from sqlmodel import Session

from mlray.errors import Conflict, InvalidName
from mlray.registry.audit import UNCHANGED, Change, append, applied, locked_head
from mlray.registry.identity import Call, authenticated
from mlray.registry.reference import checked_name
from mlray.registry.tables import AuditRow
from mlray.registry.texts import checked_text

MAX_REQUEST = 255
MAX_WHY = 4096


class Transaction:
    """Commits state and audit rows together, or nothing. Making one checks who the caller is.

    It holds the end of the audit chain from its first moment, so that one change at a time is under way in a
    database: what a change reads (roles, approvals, stages) stays true until it is committed, and none waits for
    another in a circle. `at` is the time of the change in microseconds UTC.
    """

    def __init__(self, session: Session, call: Call, *, at: int) -> None:
        if not 1 <= len(call.request) <= MAX_REQUEST:
            raise InvalidName(f"an idempotency key has 1 to {MAX_REQUEST} characters, this one {len(call.request)}")
        if len(call.why) > MAX_WHY:
            raise InvalidName(f"a reason has at most {MAX_WHY} characters, this one {len(call.why)}")
        for kind, text in (("idempotency key", call.request), ("reason", call.why), ("user", call.user)):
            checked_text(kind, text)
        locked_head(session)
        self.session = session
        self.at = at
        self.caller = authenticated(session, call)
        self._call = call

    def note(
        self,
        action: str,
        *,
        model: str = "",
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> int:
        """Appends the audit row of a change; its number."""
        self.session.flush()
        reason = {"why": self._call.why} if self._call.why else {}
        change = Change(
            who=self.caller.name,
            action=action,
            model=model,
            request=self._call.request,
            before=before,
            after={**(after or {}), **reason} or None,
        )
        return append(self.session, change, at=self.at).sequence

    def unchanged(self, action: str, *, model: str = "", after: dict[str, Any]) -> None:
        """The audit row of a change that found nothing to do. It is written all the same: a late repetition of the
        request must not undo what somebody else has done since.
        """
        self.note(action, model=model, after={**after, UNCHANGED: True})

    def repeated(self, action: str, *, model: str = "", **asked: Any) -> AuditRow | None:
        """The audit row that this very request has written before, if it has.

        Conflict where it was another caller's, or asked for something else (`asked`: by name, what the row says).
        """
        if model:
            checked_name("model", model)
        row = applied(self.session, model=model, action=action, request=self._call.request)
        if row is None:
            return None
        said = {**(row.before or {}), **(row.after or {})}
        other = next((f"{name} {said.get(name)}" for name, now in asked.items() if said.get(name) != now), None)
        if row.who != self.caller.name or other is not None:
            raise Conflict(
                f"the idempotency key {self._call.request!r} stands for a '{action}' by {row.who}"
                f"{f' with {other}' if other is not None else ''}; use a key of your own for another change"
            )
        return row
