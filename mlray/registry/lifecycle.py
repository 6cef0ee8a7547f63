"""Models and versions go: a model takes another name, a version or a model is deleted.

What was given once is never given twice: a name that was given up remembers its last number, the authors of bytes stay
known, and the audit keeps every row. What takes traffic, or has, goes only by who may withdraw it.
"""

from typing import Any

from sqlalchemy import delete, update
from sqlmodel import col, func, select

from mlray.errors import AlreadyExists, Conflict
from mlray.registry.database import large_cache
from mlray.registry.lookup import model_row, policy_in_force
from mlray.registry.policy import LIVE
from mlray.registry.reference import checked_name
from mlray.registry.tables import (
    AliasRow,
    ApprovalRow,
    ModelRow,
    ModelTagRow,
    PromotionRow,
    RetiredName,
    VersionRow,
    VersionTagRow,
)
from mlray.registry.transaction import Transaction

_OF_VERSION = (AliasRow, VersionTagRow, ApprovalRow, PromotionRow, VersionRow)
"""What goes with a version, in the order in which it can."""


def rename_model(tx: Transaction, model: ModelRow, new: str) -> None:
    """The same model under another name: numbers, stages, approvals, aliases and tags stay.

    Conflict for a name that another model has or had; the model's own earlier ones are free to it.
    """
    old, last = model.name, model.last_version
    if new == old:
        tx.unchanged("rename_model", model=old, after={"name": new})
        return
    _require_free(tx, old, checked_name("model", new))
    _require_may_withdraw(tx, f"rename {old}, of which a version takes traffic or has", old)
    tx.session.flush()
    _do(tx, delete(RetiredName).where(col(RetiredName.name) == new))
    with large_cache(tx.session):  # every row of the model is written, and its entry in every index
        _do(tx, update(ModelRow).where(col(ModelRow.name) == old).values(name=new, updated_at=tx.at))
    tx.session.expire_all()  # the database has renamed what refers to it
    tx.session.add(RetiredName(name=old, last_version=last, became=new))
    tx.note("rename_model", model=old, before={"name": old}, after={"name": new})
    tx.note("renamed", model=new, before={"name": old}, after={"name": new})


def delete_version(tx: Transaction, row: VersionRow, row_version: int | None) -> None:
    """No such version any more, nor its aliases, tags and approvals; its number is not given again."""
    reference = f"{row.model}/{row.version}"
    if row_version is not None and row_version != row.row_version:
        raise Conflict(f"{reference} is in {row.stage} now, it has changed since you looked; look again")
    _require_may_withdraw(tx, f"delete {reference}, which takes traffic or has", row.model, row.version)
    before = {"version": row.version, "stage": row.stage, "digest": row.digest, "author": row.author}
    model = model_row(tx.session, row.model)
    tx.session.flush()
    for table in _OF_VERSION:
        _do(tx, delete(table).where(col(table.model) == model.name, col(table.version) == before["version"]))
    tx.session.expunge(row)
    model.updated_at = tx.at
    tx.session.add(model)
    tx.note("delete_version", model=model.name, before=before)


def delete_model(tx: Transaction, model: ModelRow) -> None:
    """No such model any more, nor its versions. A later one of the name goes on with its numbers."""
    name, last = model.name, model.last_version
    _require_may_withdraw(tx, f"delete {name}, of which a version takes traffic or has", name)
    held = tx.session.exec(select(func.count()).where(col(VersionRow.model) == name)).one()
    tx.session.flush()
    for table in (*_OF_VERSION, ModelTagRow):
        _do(tx, delete(table).where(col(table.model) == name))
    _do(tx, delete(ModelRow).where(col(ModelRow.name) == name))
    tx.session.expunge_all()
    tx.session.add(RetiredName(name=name, last_version=last))
    tx.note("delete_model", model=name, before={"last_version": last, "versions": held})


def _require_free(tx: Transaction, old: str, new: str) -> None:
    if tx.session.get(ModelRow, new) is not None:
        raise AlreadyExists(f"there is a model '{new}' already; {old} needs a name of its own")
    retired = tx.session.get(RetiredName, new)
    if retired is not None and retired.became != old:
        raise Conflict(
            f"another model was called '{new}' and had versions up to {retired.last_version}: {new}/1 would mean two "
            "things; choose a name that was never used"
        )


def _require_may_withdraw(tx: Transaction, what: str, name: str, version: int | None = None) -> None:
    """Forbidden where a version takes traffic, or has, and the caller may not withdraw one."""
    live = select(VersionRow.version).where(VersionRow.model == name, col(VersionRow.stage).in_(LIVE))
    was = select(PromotionRow.version).where(PromotionRow.model == name)
    if version is not None:
        live, was = live.where(VersionRow.version == version), was.where(PromotionRow.version == version)
    if any(tx.session.exec(one.limit(1)).first() is not None for one in (live, was)):
        tx.caller.require(policy_in_force(tx.session).withdraw, what)


def _do(tx: Transaction, statement: Any) -> None:
    tx.session.execute(statement.execution_options(synchronize_session=False))
