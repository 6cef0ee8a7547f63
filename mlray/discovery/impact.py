"""What a source, an entity, a view or a service feeds: views, services, and the models that were trained on them."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlray.discovery.inventory import Inventory, Kind, Reader
from mlray.errors import UnknownName
from mlray.features.service import FeatureService
from mlray.features.thing import called, owned
from mlray.features.view import FeatureView

LIVE_FIRST = ("Production", "Canary", "Staging", "None", "Archived")


@dataclass(frozen=True)
class Fed:
    """A view, a service or a model version. stage, aliases: of a version. definition: whether what it reads is in
    force, or of an earlier definition that it pins.
    """

    kind: str
    name: str
    stage: str
    aliases: str
    definition: str


def impact(inventory: Inventory, name: str, kind: Kind | None = None) -> list[Fed]:
    """Views and services in force, then model versions, live ones first.

    Versions count that pin an earlier definition, also where nothing of the name is in force any more. kind: which
    thing of that name is meant; None: any. UnknownName where nothing has the name.
    """
    if kind == "model":
        raise UnknownName(f"model {name} feeds nothing; ask what a source, an entity, a view or a service feeds")

    def reads(service: FeatureService) -> bool:
        own = kind in (None, "service") and service.name == name
        return own or any(_touched(name, kind, view) for view in service.views)

    readers = [reader for reader in inventory.readers if reader.service and reads(reader.service)]
    if not readers:
        inventory.kinds_of(name, kind)
    services = [service for service in inventory.services if reads(service)]
    views = dict.fromkeys(owned(v) for service in services for v in service.views if _touched(name, kind, v))
    return [
        *(Fed("view", view, "", "", "in force") for view in views),
        *(Fed("service", service.name, "", "", "in force") for service in services),
        *_versions(inventory, readers),
    ]


def _versions(inventory: Inventory, readers: list[Reader]) -> Iterator[Fed]:
    hashes = inventory.hashes
    for reader in sorted(readers, key=lambda reader: LIVE_FIRST.index(reader.version.stage)):
        version = reader.version
        now = hashes.get(version.service) == version.service_hash
        definition = "in force" if now else f"earlier: {version.service} {version.service_hash[:12]}"
        yield Fed("model", version.reference, version.stage, ", ".join(version.aliases), definition)


def _touched(name: str, kind: Kind | None, view: FeatureView) -> bool:
    """Whether the view is, or reads, what is meant."""
    return (
        (kind in (None, "view") and called(name, owned(view)))
        or (kind in (None, "source") and view.source.name == name)
        or (kind in (None, "entity") and view.entity is not None and view.entity.name == name)
    )
