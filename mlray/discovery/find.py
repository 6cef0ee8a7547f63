"""Things by a part of their name."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlray.discovery.inventory import Inventory
from mlray.features.thing import owned

_ORDER = ("entity", "source", "view", "feature", "service", "model")


@dataclass(frozen=True)
class Found:
    """A thing of a kind: entity, source, view, feature, service or model. within: what it belongs to or is made of;
    used_by: the services that read it, the models that read these.
    """

    kind: str
    name: str
    within: str
    used_by: str


def find(inventory: Inventory, text: str) -> list[Found]:
    """Everything in force, and every model, whose name holds the text, in any case; exact names first, then by kind
    and name. An empty text finds all. A view is called `owner/name`, so a team's name finds its views.
    """
    asked = text.casefold()
    found = [one for one in _all(inventory) if asked in one.name.casefold()]
    return sorted(found, key=lambda one: (_rank(asked, one.name.casefold()), _ORDER.index(one.kind), one.name))


def _rank(asked: str, name: str) -> int:
    bare = name.rpartition("/")[2]
    if asked in (name, bare):
        return 0
    return 1 if name.startswith(asked) or bare.startswith(asked) else 2


def _all(inventory: Inventory) -> Iterator[Found]:
    for entity in inventory.entities:
        views = [view.name for view in inventory.views if view.entity == entity]
        yield Found("entity", entity.name, ", ".join(entity.keys), _names(views))
    for source in {source.name: source for source in inventory.sources}.values():
        views = [view.name for view in inventory.views if view.source.name == source.name]
        yield Found("source", source.name, source.path, _names(views))
    for view in {owned(view): view for view in inventory.views}.values():
        services = [service.name for service in inventory.services if view.name in {v.name for v in service.views}]
        yield Found("view", owned(view), f"source {view.source.name}", _names(services))
    for name, within in {(name, owned(view)) for view in inventory.views for name in view.names}:
        yield Found("feature", name, f"view {within}", "")
    yield from _services(inventory)
    for name, readers in inventory.models.items():
        newest = readers[-1].version
        live = [f"{one.version.stage}: {name}/{one.version.version}" for one in readers if one.version.stage != "None"]
        yield Found("model", name, f"service {newest.service}" if newest.service else "", ", ".join(live))


def _services(inventory: Inventory) -> Iterator[Found]:
    for service in inventory.services:
        models = [reader.version.name for reader in inventory.readers if reader.version.service == service.name]
        yield Found("service", service.name, f"{len(service.names)} features", _names(models))
        for function in service.on_demand:
            yield Found("feature", function.name, f"service {service.name}", "")


def _names(names: list[str]) -> str:
    return ", ".join(sorted(set(names)))
