"""Moves between stages: the only code that writes a stage. The policy is asked on every way into one.

A move starts from the row version that it read (compare and swap), changes come one at a time (see `transaction`), and
the database itself holds that Canary and Production have one version at most (partial unique indexes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import CursorResult, update
from sqlmodel import Session, col, select

from mlray.errors import Conflict, NotApproved
from mlray.registry.approvals import counting, missing
from mlray.registry.audit import UNCHANGED
from mlray.registry.definitions import require_in_force
from mlray.registry.evidence import Evidence
from mlray.registry.lookup import in_stage, instant
from mlray.registry.policy import LIVE, Policy
from mlray.registry.tables import AliasRow, ApprovalRow, AuditRow, PromotionRow, VersionRow
from mlray.registry.transaction import Transaction

PRODUCTION = "Production"
REPLACED, LEFT = "replaced", "left"
MOVES = ("promote", "archive", "rollback")
LATE = timedelta(minutes=30)
"""For how long a move that comes again, with no word on what its caller has seen, is taken for a repetition."""


@dataclass(frozen=True, kw_only=True)
class InProduction:
    """What a caller says of the version that a rollback is to take out of Production; None: any."""

    version: int | None = None
    row_version: int | None = None

    def is_still(self, row: VersionRow) -> bool:
        """Whether the row agrees with all that the caller says."""
        return self.version in (None, row.version) and self.row_version in (None, row.row_version)


def promote(
    tx: Transaction, policy: Policy, row: VersionRow, stage: str, evidence: Evidence, row_version: int | None
) -> None:
    """Moves a version to a stage; nothing where it is there. What it replaces there is archived along with it."""
    reference = f"{row.model}/{row.version}"
    if row_version is not None and row_version != row.row_version:
        raise _stale(row, row_version)
    if stage == row.stage:
        tx.unchanged("promote", model=row.model, after={"version": row.version, "stage": stage})
        return
    if row_version is None:
        _refuse_late(tx, row, stage)
    if stage not in policy.moves.get(row.stage, ()):
        ways = ", ".join(policy.moves.get(row.stage, ())) or "nowhere"
        raise Conflict(f"{reference} is in {row.stage}; from there the policy lets it go to {ways}, not to {stage}")
    require_bytes(policy, row, stage)
    if row.stage in LIVE and stage != PRODUCTION:
        tx.caller.require(policy.withdraw, f"take {reference} out of {row.stage}")
    approved_by = _approved(tx.session, policy, row, stage, evidence)
    if stage in LIVE:
        require_in_force(tx.session, row, f"enter {stage}")
    moved = _aliases_that_follow(tx.session, policy, row, stage)
    if stage in LIVE and (incumbent := in_stage(tx.session, row.model, stage)) is not None:
        _leave(tx, incumbent, REPLACED)
        _move(tx, incumbent, "Archived", "archive", ended=REPLACED)
    if row.stage in LIVE:
        _leave(tx, row, LEFT)
    ids = [approval.id for approval in approved_by]
    number = _move(tx, row, stage, "promote", approvals=ids, aliases=moved, policy=policy.revision)
    if stage in LIVE:
        _enter(tx, row, stage, policy, number, approved_by)


def roll_back(tx: Transaction, policy: Policy, name: str, verified: int, seen: InProduction) -> VersionRow:
    """Puts the version back into Production that had it last with approvals, and withdraws the one that is there.

    Conflict where that is not by the promotion whose bytes were verified, where another version is there than the
    caller has seen, or where the version reads what is dropped; NotApproved where it has no verified bytes and the
    policy, by now, asks for them.
    """
    target, row = rollback_target(tx.session, name)
    if target.id != verified:
        raise Conflict(f"somebody else promoted or rolled back {name} at the same moment; look again")
    incumbent = in_stage(tx.session, row.model, PRODUCTION)
    _require_seen(tx, name, incumbent, seen)
    require_bytes(policy, row, PRODUCTION)
    require_in_force(tx.session, row, f"return to {PRODUCTION}")
    if incumbent is not None:
        _leave(tx, incumbent, LEFT)
        _move(tx, incumbent, "Archived", "archive", ended=LEFT)
    moved = {} if incumbent is None else _point_on(tx.session, policy, incumbent, row)
    _move(tx, row, PRODUCTION, "rollback", promotion=target.id, aliases=moved)
    target.ended = None
    tx.session.add(target)
    return row


def rollback_target(session: Session, name: str) -> tuple[PromotionRow, VersionRow]:
    """The last Production that was replaced and is still approved: its artifact is the one that was approved, and
    nobody has taken an approval back. Conflict without one.
    """
    earlier = select(PromotionRow).where(
        PromotionRow.model == name, PromotionRow.stage == PRODUCTION, PromotionRow.ended == REPLACED
    )
    for promotion in session.exec(earlier.order_by(col(PromotionRow.id).desc())):
        row = session.get(VersionRow, (name, promotion.version))
        taken_back = select(ApprovalRow.id).where(
            ApprovalRow.promotion == promotion.id, col(ApprovalRow.revoked_at).is_not(None)
        )
        same = row is not None and row.stage == "Archived" and row.digest == promotion.digest
        if row is not None and same and session.exec(taken_back).first() is None:
            return promotion, row
    raise Conflict(f"{name} has no earlier approved Production to go back to; promote a version that has its approvals")


def require_production(session: Session, policy: Policy, row: VersionRow, alias: str) -> None:
    """NotApproved where a protected alias is asked for a version that is not in Production."""
    if alias in policy.protected_aliases and row.stage != PRODUCTION:
        lacks = missing(session, policy, row, PRODUCTION, {})
        raise lacks.refusal(
            f"{row.model}@{alias} is a protected alias, it points at the version in Production; {row.model}/"
            f"{row.version} is in {row.stage}: promote it first, which takes"
        )


def require_bytes(policy: Policy, row: VersionRow, stage: str) -> None:
    """NotApproved where nobody has verified the version's bytes and the policy asks for that. Only the way from a stage
    to Archived is open to it then.
    """
    if not row.digest and not policy.unverified_sources and (row.stage == "None" or stage != "Archived"):
        raise NotApproved(
            f"{row.model}/{row.version} was registered from {row.source} and nobody has verified its bytes: it cannot "
            f"enter {stage}; register the checkpoint itself, or let the policy say unverified_sources = true"
        )


def require_verified(row: VersionRow, evidence: Evidence) -> None:
    """Conflict where the bytes that were verified are not those of the row."""
    if evidence.digest != row.digest:
        raise Conflict(f"{row.model}/{row.version}: its digest is not the one whose bytes were verified; look again")


def require_no_pickles(reference: str, stage: str, pickles: Sequence[str]) -> None:
    """NotApproved where a version that holds pickles is to take live traffic, whoever has approved it."""
    if pickles and stage in LIVE:
        raise NotApproved(
            f"{reference} may not enter {stage}: {', '.join(pickles)} in it runs code when it is loaded, so it never "
            "goes beyond Staging; register a checkpoint of safetensors, skops or JSON files"
        )


def _approved(session: Session, policy: Policy, row: VersionRow, stage: str, evidence: Evidence) -> list[ApprovalRow]:
    """The approvals that open the stage to the version; NotApproved says what it lacks."""
    require_verified(row, evidence)
    require_no_pickles(f"{row.model}/{row.version}", stage, evidence.pickles)
    lacks = missing(session, policy, row, stage, evidence.gates)
    if lacks.words:
        raise lacks.refusal(f"{row.model}/{row.version} may not enter {stage}, it lacks")
    wanted = policy.rule(stage).approvals
    return [approval for approval in counting(session, policy, row, stage) if approval.role in wanted]


def _enter(
    tx: Transaction, row: VersionRow, stage: str, policy: Policy, number: int, approved_by: list[ApprovalRow]
) -> None:
    tx.session.add(
        PromotionRow(
            id=number, model=row.model, version=row.version, stage=stage, digest=row.digest,
            policy_revision=policy.revision,
        )
    )  # fmt: skip
    tx.session.flush()
    for approval in approved_by:
        approval.promotion = number
    tx.session.add_all(approved_by)


def _leave(tx: Transaction, row: VersionRow, how: str) -> None:
    running = select(PromotionRow).where(
        PromotionRow.model == row.model, PromotionRow.version == row.version, col(PromotionRow.ended).is_(None)
    )
    for promotion in tx.session.exec(running):
        promotion.ended = how
        tx.session.add(promotion)


def _move(tx: Transaction, row: VersionRow, stage: str, action: str, **details: Any) -> int:
    """Writes the stage where the row is still what was read, and the audit row; the audit row's number."""
    read = {"version": row.version, "stage": row.stage, "row_version": row.row_version}
    here = (
        col(VersionRow.model) == row.model,
        col(VersionRow.version) == row.version,
        col(VersionRow.row_version) == row.row_version,
    )
    values = {"stage": stage, "row_version": row.row_version + 1}
    tx.session.flush()
    moving = update(VersionRow).where(*here).values(**values, updated_at=tx.at)
    statement = moving.execution_options(synchronize_session=False)
    done: CursorResult[Any] = tx.session.connection().execute(statement)
    expected = row.row_version
    tx.session.refresh(row)
    if done.rowcount != 1:
        raise _stale(row, expected)
    after = {"version": row.version, **values, **{k: v for k, v in details.items() if v}}
    return tx.note(action, model=row.model, before=read, after=after)


def _aliases_that_follow(session: Session, policy: Policy, row: VersionRow, stage: str) -> dict[str, int | None]:
    """Protected aliases go where Production goes: on to the next version, or away with the last."""
    if stage == PRODUCTION:
        incumbent = in_stage(session, row.model, PRODUCTION)
        return {} if incumbent is None else _point_on(session, policy, incumbent, row)
    return _point_on(session, policy, row, None) if row.stage == PRODUCTION else {}


def _point_on(session: Session, policy: Policy, old: VersionRow, new: VersionRow | None) -> dict[str, int | None]:
    pointing = (AliasRow.model == old.model, AliasRow.version == old.version)
    rows = list(session.exec(select(AliasRow).where(*pointing, col(AliasRow.alias).in_(policy.protected_aliases))))
    for alias in rows:
        if new is None:
            session.delete(alias)
        else:
            alias.version = new.version
            session.add(alias)
    return {alias.alias: None if new is None else new.version for alias in rows}


def _refuse_late(tx: Transaction, row: VersionRow, stage: str) -> None:
    """Conflict where the caller's last move of the version was this very one, and somebody else has moved it on since:
    the call may be the first one's repetition, by a client that has not seen the answer.
    """
    done = [one for one in _late_moves(tx, row.model) if (one.after or {})["version"] == row.version]
    mine = next((one for one in reversed(done) if one.who == tx.caller.name), None)
    if mine is None or mine is done[-1] or (mine.after or {})["stage"] != stage:
        return
    at = instant(mine.at).isoformat(timespec="seconds")
    raise Conflict(
        f"{tx.caller.name} moved {row.model}/{row.version} to {stage} already, at {at}, and {done[-1].who} has moved "
        f"it to {row.stage} since; if this is not the same call once more, say that you have seen it there: row "
        f"version {row.row_version} (a ModelVersion, or If-Match)"
    )


def _require_seen(tx: Transaction, name: str, incumbent: VersionRow | None, seen: InProduction) -> None:
    """Conflict where the caller has seen another version in Production; and, from a caller who does not say, right
    after a rollback: one that is repeated, or that two ask for at once, goes back once.
    """
    if seen == InProduction():
        _refuse_second_rollback(tx, name)
    elif incumbent is None or not seen.is_still(incumbent):
        now = f"{name}/{incumbent.version}, row version {incumbent.row_version}, is" if incumbent else "nothing is"
        raise Conflict(f"{PRODUCTION} of {name} is not what you have seen: {now} there; look again, and decide again")


def _refuse_second_rollback(tx: Transaction, name: str) -> None:
    last = next(reversed(_late_moves(tx, name)), None)
    if last is not None and last.action == "rollback":
        to, at = f"{name}/{(last.after or {})['version']}", instant(last.at).isoformat(timespec="seconds")
        raise Conflict(
            f"{last.who} has rolled {name} back to {to} already, at {at}; if you have seen that and mean to go back "
            f"further, say from where: `mlray rollback {to}`"
        )


def _late_moves(tx: Transaction, name: str) -> list[AuditRow]:
    """The moves of the model's versions so short ago that one which comes again may be a repetition, oldest first."""
    since = tx.at - LATE // timedelta(microseconds=1)
    moves = select(AuditRow).where(AuditRow.model == name, col(AuditRow.action).in_(MOVES), AuditRow.at >= since)
    rows = tx.session.exec(moves.order_by(col(AuditRow.sequence)))
    return [one for one in rows if one.after and UNCHANGED not in one.after]


def _stale(row: VersionRow, expected: int) -> Conflict:
    return Conflict(
        f"{row.model}/{row.version} has changed since you looked: it is in {row.stage} now (row version "
        f"{row.row_version}, yours is {expected}); get it again, and decide again"
    )
