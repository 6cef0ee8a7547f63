"""Approvals: whose word counts for what, and what a stage still lacks.

An approval is bound to a version, its digest, the target stage and the policy as it was put in force that time, and is
good for one promotion. Whether it counts is decided when it is used, from what is true then: who has lost the role or
was disabled in between, or has turned out to be an author of these very bytes, does not count.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlmodel import Session, col, select

from mlray.errors import Conflict, Forbidden, NotApproved, UnknownName
from mlray.registry.canonical import sha256_text
from mlray.registry.gates import Gate
from mlray.registry.identity import UNPROVEN
from mlray.registry.lookup import instant, policy_since
from mlray.registry.people import Approval
from mlray.registry.policy import Policy
from mlray.registry.tables import ApprovalRow, AuthorRow, RoleRow, UserRow, VersionRow
from mlray.registry.transaction import Transaction


def approve(tx: Transaction, policy: Policy, row: VersionRow, stage: str, role: str) -> None:
    """The caller's approval of the version for the stage; nothing where the caller has given it already."""
    reference, asked = f"{row.model}/{row.version}", policy.rule(stage).approvals
    if role not in asked:
        raise UnknownName.of(f"role whose approval {stage} asks for", role, asked)
    tx.caller.require([role], f"approve {reference} as {role}")
    by = authors(tx.session, row)
    if tx.caller.name in by:
        raise Forbidden(f"{tx.caller.name} registered {reference}, or the same bytes, and cannot approve it")
    if unproven := [name for name in by if name.startswith(UNPROVEN)]:
        raise Forbidden(
            f"{reference} was registered without a token, by {', '.join(unproven)}: nobody can say whom to exclude; "
            "train and register it with a token"
        )
    for given in counting(tx.session, policy, row, stage):
        if given.who == tx.caller.name:
            if given.role == role:
                said = {"version": row.version, "stage": stage, "role": role}
                tx.unchanged("approve", model=row.model, after=said)
                return
            raise Conflict(f"{given.who} has approved {reference} as {given.role}; one person has one voice")
    after = {"version": row.version, "stage": stage, "role": role, "digest": row.digest, "policy": policy.revision}
    number = tx.note("approve", model=row.model, after=after)
    tx.session.add(
        ApprovalRow(
            id=number, model=row.model, version=row.version, digest=row.digest, stage=stage,
            policy_revision=policy.revision, role=role, who=tx.caller.name, at=tx.at,
        )
    )  # fmt: skip


def revoke_approval(tx: Transaction, row: VersionRow, stage: str) -> None:
    """Takes back what the caller has approved of the version for the stage. A promotion that has used it stands, and
    no rollback returns to it.
    """
    mine = _given(row, stage).where(ApprovalRow.who == tx.caller.name, col(ApprovalRow.revoked_at).is_(None))
    rows = list(tx.session.exec(mine))
    if not rows:
        raise UnknownName(f"{tx.caller.name} has no approval of {row.model}/{row.version} for {stage} to take back")
    for approval in rows:
        approval.revoked_at = tx.at
    tx.session.add_all(rows)
    ids = [approval.id for approval in rows]
    tx.note("revoke_approval", model=row.model, before={"version": row.version, "stage": stage, "approvals": ids})


_WANTED_BY = {"model_card": "[model.card]"}
"""The table of the recipe by which a run has a gate's result, where it is not called like the gate."""


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """What a version lacks to enter a stage: roles, one entry per person who has yet to approve; gates; in words."""

    roles: tuple[str, ...]
    gates: tuple[str, ...]
    words: tuple[str, ...]

    def refusal(self, sentence: str) -> NotApproved:
        """The error: `sentence` goes on with what is lacking."""
        return NotApproved(f"{sentence} {'; '.join(self.words) or 'nothing more'}", roles=self.roles, gates=self.gates)


def missing(session: Session, policy: Policy, row: VersionRow, stage: str, gates: Mapping[str, Gate]) -> Lacking:
    """What the version lacks to enter the stage; nothing where it may."""
    rule = policy.rule(stage)
    lacking = Counter(rule.approvals) - Counter(one.role for one in counting(session, policy, row, stage))
    roles = tuple(lacking.elements())
    found = [f"an approval as {role}" for role in roles]
    closed = tuple(gate for gate in rule.gates if gate not in gates or not gates[gate].passed)
    for gate in closed:
        nothing = f"the run left no result; train with {_WANTED_BY.get(gate, f'[gates.{gate}]')}"
        found.append(f"gate '{gate}': {gates.get(gate, nothing)}")
    if lacking:
        found += [f"({a.who}'s approval does not count: {a.void})" for a in _void(session, policy, row, stage)]
    return Lacking(roles=roles, gates=closed, words=tuple(found))


def counting(session: Session, policy: Policy, row: VersionRow, stage: str) -> list[ApprovalRow]:
    """The approvals that count now, one per person, oldest first."""
    rows = list(session.exec(_given(row, stage)))
    verdicts = _verdicts(session, policy, row, rows)
    return list({a.who: a for a in reversed(rows) if verdicts[a.id] is None}.values())[::-1]


def approvals(session: Session, policy: Policy, row: VersionRow) -> list[Approval]:
    """All that was ever approved of the version, oldest first."""
    rows = list(session.exec(_given(row)))
    verdicts = _verdicts(session, policy, row, rows)
    return [
        Approval(
            model=one.model, version=one.version, stage=one.stage, role=one.role, who=one.who, at=instant(one.at),
            digest=one.digest, policy_revision=one.policy_revision, void=verdicts[one.id],
        )
        for one in rows
    ]  # fmt: skip


def authors(session: Session, row: VersionRow) -> set[str]:
    """Whoever has ever registered these bytes, under any name, deleted or not."""
    return set(session.exec(select(AuthorRow.author).where(AuthorRow.origin == origin(row.digest, row.source))))


def add_author(session: Session, row: VersionRow) -> None:
    """The version's author is one of its bytes, for good."""
    if row.author not in authors(session, row):
        session.add(AuthorRow(origin=origin(row.digest, row.source), author=row.author))


def origin(digest: str, source: str) -> str:
    """By what bytes are known: their digest, or the SHA-256 of the source's name where nobody has verified them."""
    return digest or sha256_text(source)


def _given(row: VersionRow, stage: str | None = None):  # type: ignore[no-untyped-def]  # SQLModel's select types
    query = select(ApprovalRow).where(ApprovalRow.model == row.model, ApprovalRow.version == row.version)
    query = query if stage is None else query.where(ApprovalRow.stage == stage)
    return query.order_by(col(ApprovalRow.id))


def _void(session: Session, policy: Policy, row: VersionRow, stage: str) -> list[Approval]:
    """Approvals for the stage that one would expect to count, and that do not."""
    given = [one for one in approvals(session, policy, row) if one.stage == stage]
    return [one for one in given if one.void not in (None, REVOKED, USED)]


REVOKED = "it was taken back"
USED = "an earlier promotion has used it"


def _verdicts(session: Session, policy: Policy, row: VersionRow, rows: list[ApprovalRow]) -> dict[int, str | None]:
    """Why each approval does not count; None where it does."""
    givers = sorted({approval.who for approval in rows})
    known = session.exec(select(UserRow).where(col(UserRow.name).in_(givers)))
    disabled = {user.name for user in known if user.disabled}
    held = session.exec(select(RoleRow).where(col(RoleRow.name).in_(givers)))
    granted = {(one.name, one.role): one.granted for one in held}
    by, in_force = authors(session, row), policy_since(session)

    def verdict(one: ApprovalRow) -> str | None:
        since = granted.get((one.who, one.role))
        reasons = (
            (one.revoked_at is not None, REVOKED),
            (one.promotion is not None, USED),
            (one.digest != row.digest, "it was given for other bytes"),
            (one.policy_revision != policy.revision, "it was given under another policy"),
            (one.id < in_force, "it was given before the policy was put in force anew"),
            (one.who in disabled, f"{one.who} was disabled"),
            (since is None or since > one.id, f"{one.who} has lost the role {one.role} since"),
            (one.who in by, f"{one.who} registered the same bytes"),
        )
        return next((reason for holds, reason in reasons if holds), None)

    return {one.id: verdict(one) for one in rows}
