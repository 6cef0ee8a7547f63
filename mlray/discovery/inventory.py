"""The services in force in a lake, and the model versions with the definitions that they pin."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

from mlray.errors import UnknownName
from mlray.features.applied import Applied
from mlray.features.catalog import pinned, service_hash, view_hash
from mlray.features.entity import Entity
from mlray.features.service import FeatureService
from mlray.features.source import DeltaSource
from mlray.features.thing import called, owned
from mlray.features.view import FeatureView
from mlray.registry.model_version import ModelVersion

Kind = Literal["entity", "source", "view", "service", "model"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Reader:
    """A model version and the service that it pins; None where it records none that can be read."""

    version: ModelVersion
    service: FeatureService | None

    @property
    def views(self) -> tuple[FeatureView, ...]:
        return self.service.views if self.service else ()

    @property
    def sources(self) -> tuple[DeltaSource, ...]:
        return self.service.sources if self.service else ()


@dataclass(frozen=True)
class Inventory:
    """services: in force, by name. readers: every version of every model, by model and number."""

    services: tuple[FeatureService, ...]
    readers: tuple[Reader, ...]

    @classmethod
    def of(cls, applied: Applied, versions: Iterable[ModelVersion]) -> Self:
        """As it is now."""
        known: dict[str, FeatureService | None] = {}
        readers = []
        for version in versions:
            if version.service_definition not in known:
                known[version.service_definition] = pinned(version.service_definition)
            readers.append(Reader(version, known[version.service_definition]))
        return cls(tuple(applied.services()), tuple(readers))

    @property
    def views(self) -> list[FeatureView]:
        """Those in force, each content once, by name."""
        views = {view_hash(view): view for service in self.services for view in service.views}
        return sorted(views.values(), key=lambda view: view.name)

    @property
    def sources(self) -> list[DeltaSource]:
        """Those that a view in force reads, each content once, by name."""
        sources = dict.fromkeys(view.source for view in self.views)
        return sorted(sources, key=lambda source: source.name)

    @property
    def entities(self) -> list[Entity]:
        """Those of views in force, by name."""
        entities = dict.fromkeys(view.entity for view in self.views if view.entity)
        return sorted(entities, key=lambda entity: entity.name)

    @property
    def models(self) -> Mapping[str, Sequence[Reader]]:
        """The versions of each model, by its name."""
        found: dict[str, list[Reader]] = {}
        for reader in self.readers:
            found.setdefault(reader.version.name, []).append(reader)
        return found

    @property
    def hashes(self) -> Mapping[str, str]:
        """The content hash in force of each service."""
        return {service.name: service_hash(service) for service in self.services}

    def names(self, kind: Kind) -> list[str]:
        """The names of one kind; of views with their owner where they have one, `payments/spending`."""
        if kind == "model":
            return list(self.models)
        if kind == "view":
            return [owned(view) for view in self.views]
        if kind == "service":
            return [service.name for service in self.services]
        return [one.name for one in (self.entities if kind == "entity" else self.sources)]

    def kinds_of(self, name: str, kind: Kind | None = None) -> list[Kind]:
        """Which kinds of thing carry the name: a view does with and without its owner. UnknownName where none does,
        or not the one that is asked for.
        """
        asked = KINDS if kind is None else (kind,)
        if kind is not None and kind not in KINDS:
            raise UnknownName.of("kind", kind, KINDS)
        found = [one for one in asked if any(called(name, known) for known in self.names(one))]
        if not found:
            known = [known for one in asked for known in self.names(one)]
            bare = [known.rpartition("/")[2] for known in known]
            raise UnknownName.of(kind or "entity, source, view, service or model", name, [*known, *bare])
        return found
