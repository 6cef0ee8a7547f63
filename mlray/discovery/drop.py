"""Taking a view, a source or a service out of force, unless a model that takes live traffic reads it.

What goes is the present: services in force without it. Definitions are kept by content, and each model version holds
its own, so what pins a dropped one is ingested for and can be rebuilt. Whether it may go is decided by the registry,
under the lock under which versions are promoted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlray.discovery.inventory import Inventory, Kind
from mlray.errors import Conflict, UnknownName
from mlray.features.applied import Applied
from mlray.features.catalog import view_hash
from mlray.features.on_demand import OnDemand
from mlray.features.service import FeatureService, read_views
from mlray.features.thing import Thing, owned
from mlray.registry.client import Registry


@dataclass(frozen=True)
class Drop:
    """What happened to one service in force: `withdrawn`, or `without` the views named."""

    service: str
    change: str
    views: tuple[str, ...]


@dataclass(frozen=True)
class Dropping:
    """What a drop does to the catalog under the lake, wherever the registry's rules run."""

    lake: str
    thing: Thing

    def mark(self) -> None:
        """So that whoever applies the thing again tells the registry."""
        Applied(self.lake).mark(self.thing)

    def take(self) -> list[Drop]:
        """Puts every service in force that is left without the thing, and the others out of it."""
        applied = Applied(self.lake)
        left = _left(applied.services(), self.thing)
        for service, rest in left:
            if rest is None:
                applied.withdraw(service.name)
            else:
                applied.apply(rest)
        return [_told(service, rest, self.thing) for service, rest in left]


def drop(inventory: Inventory, applied: Applied, registry: Registry, name: str, kind: Kind | None = None) -> list[Drop]:
    """Takes a view out of every service in force, a source with all its views, or a service as a whole; a service of
    which nothing is left goes too.

    Conflict where a version in Production or Canary reads it, in whatever definition, or where an on-demand feature
    needs it; then nothing is changed. From then on no version that reads it enters these stages, until it is applied
    again; so a drop that was cut off is done by dropping once more. UnknownName where nothing in force has the name, or
    several kinds of thing have.
    """
    thing = _meant(inventory, name, kind)
    _left(inventory.services, thing)
    return registry.drop_definition(thing, Dropping(applied.lake, thing))


def _meant(inventory: Inventory, name: str, kind: Kind | None) -> Thing:
    if kind in ("entity", "model"):
        raise UnknownName(f"{kind} {name} cannot be dropped; a view, a source or a service can")
    known = inventory.kinds_of(name, kind)
    kinds = [one for one in known if one in ("source", "view", "service")]
    if not kinds:
        raise UnknownName(f"'{name}' is the {known[0]} {name}, which cannot be dropped; a view, source or service can")
    if len(kinds) > 1:
        raise UnknownName(f"'{name}' is a {' and a '.join(kinds)}; say which: kind='{kinds[0]}' (--kind {kinds[0]})")
    thing = Thing(kinds[0], name)
    if thing.kind == "view":
        return replace(thing, definitions=tuple(view_hash(view) for view in inventory.views if thing.means(view)))
    return thing


def _left(services: Sequence[FeatureService], thing: Thing) -> list[tuple[FeatureService, FeatureService | None]]:
    """The services that change, each with what is left of it; None where that is nothing."""
    left = [(service, _without(service, thing)) for service in services]
    return [(service, rest) for service, rest in left if rest != service]


def _without(service: FeatureService, thing: Thing) -> FeatureService | None:
    if thing.kind == "service":
        return None if service.name == thing.name else service
    kept = []
    for item in service.items:
        gone = [view for view in read_views(item) if thing.means(view)]
        if gone and isinstance(item, OnDemand):
            raise Conflict(
                f"{thing} cannot be dropped: the on-demand feature '{item.name}' of service {service.name} needs "
                f"{owned(gone[0])}; apply the service without it first"
            )
        if not gone:
            kept.append(item)
    if len(kept) == len(service.items):
        return service
    return replace(service, features=kept) if kept else None


def _told(service: FeatureService, rest: FeatureService | None, thing: Thing) -> Drop:
    kept = {view.name for view in (rest or service).views} if rest or thing.kind == "service" else set()
    views = tuple(owned(view) for view in service.views if view.name not in kept)
    return Drop(service.name, "without" if rest else "withdrawn", views)
