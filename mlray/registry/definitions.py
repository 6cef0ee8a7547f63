"""What of the catalog is dropped: no version in Production or Canary reads it, and none that does gets there.

The audit alone tells what is dropped: rows `drop`, and rows `apply_again` that take them back. The catalog itself is
files under the lake, which no transaction of the database covers. So it is changed by whoever holds the lock under
which versions are promoted, in an order in which a kill leaves too much refused and never too little:

- a drop is written down first, with a mark in the catalog; then the catalog is changed, if it is dropped still;
- what is applied again is put into the catalog first, then written down; its mark goes last. As long as there is
  one, whoever applies comes here.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from sqlmodel import Session, col, select

from mlray.errors import Conflict, SchemaError, UnknownName
from mlray.features.catalog import pinned
from mlray.features.service import FeatureService
from mlray.features.thing import Thing
from mlray.registry.lookup import instant
from mlray.registry.policy import LIVE
from mlray.registry.tables import AuditRow, VersionRow
from mlray.registry.texts import checked_text
from mlray.registry.transaction import Transaction

DROP, APPLY_AGAIN = "drop", "apply_again"
KINDS = ("view", "source", "service")
MAX_NAME = 300
Done = TypeVar("Done", covariant=True)


class Dropping(Protocol[Done]):
    """What a drop does to the catalog, wherever the rules run; pickled to there."""

    def mark(self) -> None:
        """Marks the thing as one that was dropped."""

    def take(self) -> Done:
        """Takes it out of force."""


class Applying(Protocol[Done]):
    """What applying does to the catalog, wherever the rules run; pickled to there."""

    def apply(self) -> Done:
        """Puts the service in force."""

    def unmark(self) -> None:
        """Forgets that anything of it was dropped."""


Changing = Callable[[], AbstractContextManager[Transaction]]


def drop(changing: Changing, thing: Thing, catalog: Dropping[Done]) -> Done:
    """Takes the thing out of force; Conflict where a version in Production or Canary reads it.

    changing: opens a transaction of the call.
    """
    with changing() as tx:
        _check(thing)
        if tx.repeated(DROP, kind=thing.kind, name=thing.name) is None:
            _refuse_live(tx.session, thing)
            tx.note(DROP, after=_plain(thing))
            catalog.mark()
    with changing() as tx:
        if thing not in dropped(tx.session):
            raise Conflict(f"somebody applied {thing} again at the same moment; look again")
        return catalog.take()


def apply_again(changing: Changing, definition: str, catalog: Applying[Done]) -> Done:
    """Puts a service in force, by its text: all of it that was dropped is not any more."""

    def gone(session: Session, service: FeatureService) -> list[Thing]:
        return [thing for thing in dropped(session) if thing.is_read_by(service.name, service.views)]

    with changing() as tx:
        service = pinned(definition)
        if service is None:
            raise SchemaError(f"{definition!r:.100} is no feature service that this release can rebuild")
        back = gone(tx.session, service)
        if tx.repeated(APPLY_AGAIN, service=service.name) is None:
            tx.note(APPLY_AGAIN, after={"service": service.name, "things": [_plain(thing) for thing in back]})
        elif back:
            raise Conflict(f"somebody dropped {back[0]} at the same moment; look again")
        done = catalog.apply()
    with changing() as tx:
        if not gone(tx.session, service):
            catalog.unmark()
    return done


def _check(thing: Thing) -> None:
    """UnknownName, InvalidName where it is no name of the catalog: it comes from anybody who holds a token."""
    if thing.kind not in KINDS:
        raise UnknownName.of("kind of thing to drop", str(thing.kind), KINDS)
    for text in (thing.name, *thing.definitions):
        checked_text("name", text, MAX_NAME)


def _refuse_live(session: Session, thing: Thing) -> None:
    live = select(VersionRow).where(col(VersionRow.stage).in_(LIVE)).order_by(VersionRow.model, col(VersionRow.version))
    readers = [row for row in session.exec(live) if _reads(row, thing)]
    if readers:
        models = ", ".join(f"{row.model}/{row.version} ({row.stage})" for row in readers)
        raise Conflict(
            f"{thing} cannot be dropped: {models} {'reads' if len(readers) == 1 else 'read'} it; promote a version "
            "that does not, or archive what reads it, first"
        )


def dropped(session: Session) -> dict[Thing, AuditRow]:
    """What is dropped, and the row that says so."""
    rows = select(AuditRow).where(AuditRow.model == "", col(AuditRow.action).in_([DROP, APPLY_AGAIN]))
    found: dict[Thing, AuditRow] = {}
    for row in session.exec(rows.order_by(col(AuditRow.sequence) + 0)):  # by the index of actions, as in `janitor`
        after = row.after or {}
        if row.action == DROP:
            found[_thing(after)] = row
        else:
            for one in after["things"]:
                found.pop(_thing(one), None)
    return found


def require_in_force(session: Session, row: VersionRow, what: str) -> None:
    """Conflict where the version reads what is dropped."""
    for thing, drop in dropped(session).items():
        if _reads(row, thing):
            when = instant(drop.at).isoformat(timespec="seconds")
            raise Conflict(
                f"{row.model}/{row.version} cannot {what}: it reads {thing}, which {drop.who} dropped at {when}; apply "
                f"it again (`mlray apply`), or train a version without it"
            )


def _reads(row: VersionRow, thing: Thing) -> bool:
    service = pinned(row.service_definition)
    return thing.is_read_by(row.service, service.views if service else ())


def _plain(thing: Thing) -> dict[str, Any]:
    return asdict(thing) | {"definitions": list(thing.definitions)}


def _thing(plain: dict[str, Any]) -> Thing:
    return Thing(plain["kind"], plain["name"], tuple(plain["definitions"]))
