"""Aliases: free names that point at one version; the protected ones among them point at what is in Production."""

from mlray.registry.lookup import alias_row, model_row, policy_in_force
from mlray.registry.reference import checked_name
from mlray.registry.stages import require_production
from mlray.registry.tables import AliasRow, VersionRow
from mlray.registry.transaction import Transaction


def set_alias(tx: Transaction, row: VersionRow, alias: str) -> None:
    """Points the alias at the version, from wherever it pointed before."""
    require_production(tx.session, policy_in_force(tx.session), row, checked_name("alias", alias))
    pointing = tx.session.get(AliasRow, (row.model, alias))
    before = None if pointing is None else {"alias": alias, "version": pointing.version}
    pointing = pointing or AliasRow(model=row.model, alias=alias, version=row.version)
    pointing.version = row.version
    tx.session.add(pointing)
    _touch(tx, row.model)
    tx.note("set_alias", model=row.model, before=before, after={"alias": alias, "version": row.version})


def remove_alias(tx: Transaction, name: str, alias: str) -> None:
    """Forgets the alias; UnknownName where the model has none of that name."""
    row = alias_row(tx.session, name, alias)
    policy = policy_in_force(tx.session)
    if alias in policy.protected_aliases:
        tx.caller.require(policy.withdraw, f"remove the protected alias {name}@{alias}")
    before = {"alias": alias, "version": row.version}
    tx.session.delete(row)
    _touch(tx, name)
    tx.note("remove_alias", model=name, before=before)


def _touch(tx: Transaction, name: str) -> None:
    model = model_row(tx.session, name)
    model.updated_at = tx.at
    tx.session.add(model)
