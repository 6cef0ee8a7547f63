"""The policy in force: an admin puts it there, and no protected alias points elsewhere than at Production under it."""

from sqlmodel import Session, col, select

from mlray.errors import Conflict
from mlray.registry.identity import ADMIN
from mlray.registry.lookup import MAX_SUGGESTIONS, policy_in_force
from mlray.registry.policy import Policy
from mlray.registry.stages import PRODUCTION
from mlray.registry.tables import AliasRow, PolicyRow, VersionRow
from mlray.registry.transaction import Transaction


def put_in_force(tx: Transaction, policy: Policy) -> None:
    """Puts the policy in force, by an admin; nothing where it is.

    Conflict where an alias that it protects points at a version that is not in Production.
    """
    if tx.caller.proven:
        tx.caller.require([ADMIN], "put a policy in force")
    before = policy_in_force(tx.session)
    if policy == before:
        tx.unchanged("set_policy", after={"policy": policy.revision})
        return
    _require_production(tx.session, policy)
    after = {"policy": policy.revision, "document": policy.to_json()}
    number = tx.note("set_policy", before={"policy": before.revision}, after=after)
    tx.session.add(PolicyRow(id=number, revision=policy.revision, document=policy.to_json()))
    tx.session.flush()


def _require_production(session: Session, policy: Policy) -> None:
    """Refused, and not removed: what is served by the alias would be gone without anybody having asked for that."""
    protected = (col(AliasRow.alias).in_(policy.protected_aliases), VersionRow.stage != PRODUCTION)
    same = (col(VersionRow.model) == col(AliasRow.model)) & (col(VersionRow.version) == col(AliasRow.version))
    rows = select(AliasRow, VersionRow.stage).join(VersionRow, same).where(*protected).order_by(AliasRow.model)
    found = [
        f"{alias.model}@{alias.alias} ({alias.model}/{alias.version} is in {stage})"
        for alias, stage in session.exec(rows.limit(MAX_SUGGESTIONS))
    ]
    if found:
        raise Conflict(
            f"the policy protects {', '.join(found)}: a protected alias points at the version in Production; promote "
            "that version, point the alias at the one in Production, or remove it first (`mlray model alias`)"
        )
