"""Taking a view, a source or a service out of force, unless a model that takes live traffic reads it.

What goes is the present: services in force without it. Definitions are kept by content, and each model version holds
its own, so what pins a dropped one still serves, is ingested for and can be rebuilt.
"""

from dataclasses import dataclass, replace

from mlray.discovery.inventory import Inventory, Kind, Reader, called, owned
from mlray.errors import Conflict, UnknownName
from mlray.features.applied import Applied
from mlray.features.on_demand import OnDemand
from mlray.features.service import FeatureService, read_views
from mlray.features.view import FeatureView
from mlray.registry.policy import LIVE


@dataclass(frozen=True)
class Drop:
    """What happened to one service in force: `withdrawn`, or `without` the views named."""

    service: str
    change: str
    views: tuple[str, ...]


def drop(applied: Applied, inventory: Inventory, name: str, kind: Kind | None = None) -> list[Drop]:
    """Takes a view out of every service in force, a source with all its views, or a service as a whole; a service of
    which nothing is left goes too.

    Conflict where a version in Production or Canary reads it, in whatever definition, or where an on-demand feature
    needs it; then nothing is changed. UnknownName where nothing in force has the name, or several kinds of thing have.
    """
    meant = _one_kind(inventory, name, kind)
    _refuse_live(inventory, name, meant)
    if meant == "service":
        applied.withdraw(name)
        return [Drop(name, "withdrawn", ())]
    left = {service: _without(service, name, meant) for service in inventory.services}
    changed = {service: rest for service, rest in left.items() if rest != service}
    for service, rest in changed.items():
        if rest is None:
            applied.withdraw(service.name)
        else:
            applied.apply(rest)
    return [_told(service, rest) for service, rest in changed.items()]


def _one_kind(inventory: Inventory, name: str, kind: Kind | None) -> Kind:
    if kind in ("entity", "model"):
        raise UnknownName(f"{kind} {name} cannot be dropped; a view, a source or a service can")
    known = inventory.kinds_of(name, kind)
    kinds = [one for one in known if one in ("source", "view", "service")]
    if not kinds:
        raise UnknownName(f"'{name}' is the {known[0]} {name}, which cannot be dropped; a view, source or service can")
    if len(kinds) > 1:
        raise UnknownName(f"'{name}' is a {' and a '.join(kinds)}; say which: kind='{kinds[0]}' (--kind {kinds[0]})")
    return kinds[0]


def _refuse_live(inventory: Inventory, name: str, kind: Kind) -> None:
    live = [one for one in inventory.readers if one.version.stage in LIVE and _reads(one, name, kind)]
    if live:
        models = ", ".join(f"{one.version.reference} ({one.version.stage})" for one in live)
        raise Conflict(
            f"{kind} {name} cannot be dropped: {models} {'reads' if len(live) == 1 else 'read'} it; promote a version "
            "that does not, or archive what reads it, first"
        )


def _reads(reader: Reader, name: str, kind: Kind) -> bool:
    if kind == "service":
        return reader.version.service == name
    return any(_meant(view, name, kind) for view in reader.views)


def _meant(view: FeatureView, name: str, kind: Kind) -> bool:
    return called(name, owned(view)) if kind == "view" else view.source.name == name


def _without(service: FeatureService, name: str, kind: Kind) -> FeatureService | None:
    """The service without what reads the thing; None where nothing would be left."""
    kept = []
    for item in service.items:
        gone = [view for view in read_views(item) if _meant(view, name, kind)]
        if gone and isinstance(item, OnDemand):
            raise Conflict(
                f"{kind} {name} cannot be dropped: the on-demand feature '{item.name}' of service {service.name} needs "
                f"{owned(gone[0])}; apply the service without it first"
            )
        if not gone:
            kept.append(item)
    if len(kept) == len(service.items):
        return service
    return replace(service, features=kept) if kept else None


def _told(service: FeatureService, rest: FeatureService | None) -> Drop:
    kept = {view.name for view in rest.views} if rest else set()
    views = tuple(owned(view) for view in service.views if view.name not in kept)
    return Drop(service.name, "without" if rest else "withdrawn", views)
