"""Which definitions are in force: feature services by name, as text, in an object store under the lake.

A service's text lies under its content hash and never changes; `current` names the one in force.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from mlray.errors import ConfigError, DefinitionError, UnknownName
from mlray.features.catalog import service_from_text, service_hash, service_text, view_hash
from mlray.features.entity import Entity
from mlray.features.service import FeatureService
from mlray.features.source import DeltaSource
from mlray.features.thing import Thing
from mlray.features.view import FeatureView

_ROOT = "_mlray/catalog"
_CURRENT = "current"
_DROPPED = "dropped/"


@dataclass(frozen=True)
class Diff:
    """What applying a service changed, one line each; `+` added, `~` changed, `-` removed, `=` as before,
    `!` a table that is not there yet."""

    service: str
    digest: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((f"feature service {self.service} {self.digest[:12]}", *(f"  {line}" for line in self.lines)))


@dataclass(frozen=True)
class Definition:
    """A definition of a service that was applied once, and when it was last; `in_force`: it is the present one."""

    digest: str
    applied_at: datetime
    in_force: bool


class Applied:
    """The services in force in one lake."""

    def __init__(self, lake: str) -> None:
        self.lake = lake if "://" in lake else str(Path(lake).absolute())
        self._known: dict[str, FeatureService] = {}
        self._store: Any
        if "://" in lake:
            self._store = from_url(f"{lake.rstrip('/')}/{_ROOT}")
        else:
            self._store = _local(lake)

    def apply(self, service: FeatureService) -> Diff:
        """Puts the service in force."""
        self._check_tables(service)
        before = self.get(service.name) if service.name in self.names() else None
        digest = service_hash(service)
        path = f"services/{service.name}/{digest}.json"
        self._store.put(path, service_text(service).encode())
        self._known.pop(path, None)  # another owner is no other content
        self._store.put(f"services/{service.name}/{_CURRENT}", digest.encode())
        return Diff(service.name, digest, tuple(_changes(before, service)))

    def withdraw(self, name: str) -> None:
        """Takes a service out of force. Its definitions stay: models pin them."""
        self.get(name)
        self._store.delete(f"services/{name}/{_CURRENT}")

    def mark(self, thing: Thing) -> None:
        """Marks the thing as one that was dropped: the registry is to know when it is applied again."""
        self._store.put(_mark(thing), _marked(thing))

    def unmark(self, thing: Thing) -> None:
        """Forgets the mark."""
        if thing in self.dropped():
            self._store.delete(_mark(thing))

    def dropped(self) -> list[Thing]:
        """What bears a mark."""
        found = []
        for entry in self._entries(_DROPPED):
            try:
                one = json.loads(self._read(entry["path"]))
            except FileNotFoundError:  # unmarked since it was listed
                continue
            found.append(Thing(one["kind"], one["name"], tuple(one["definitions"])))
        return found

    def names(self) -> list[str]:
        """The names of the services in force."""
        paths = (entry["path"].split("/") for entry in self._entries())
        return sorted(name for _, name, file in paths if file == _CURRENT)

    def definitions(self, name: str) -> list[Definition]:
        """Every definition that the service ever had here, the one that was applied last first."""
        self.get(name)
        digest = self._read(f"services/{name}/{_CURRENT}")
        found = [
            Definition(path.stem, entry["last_modified"], path.stem == digest)
            for entry in self._entries(f"services/{name}/")
            if (path := Path(entry["path"])).suffix == ".json"
        ]
        return sorted(found, key=lambda one: (one.in_force, one.applied_at), reverse=True)

    def get(self, name: str) -> FeatureService:
        """The service in force under this name; UnknownName where none is."""
        if name not in self.names():
            raise UnknownName.of("applied feature service", name, self.names())
        digest = self._read(f"services/{name}/{_CURRENT}")
        return self._stored(f"services/{name}/{digest}.json")

    def source(self, name: str) -> DeltaSource:
        """The source of this name that some service in force reads; UnknownName where none does."""
        sources = {source.name: source for service in self.services() for source in service.sources}
        if name not in sources:
            raise UnknownName.of("source in any applied feature service", name, sources)
        return sources[name]

    def views(self) -> list[FeatureView]:
        """Every view that some service in force reads, each content once."""
        return list({view_hash(view): view for service in self.services() for view in service.views}.values())

    def past_views(self) -> list[FeatureView]:
        """The views of definitions that were in force and are not any more: models may still read them."""
        paths = [entry["path"] for entry in self._entries()]
        services = [self._stored(path) for path in paths if path.endswith(".json")]
        now = {view_hash(view) for view in self.views()}
        past = {view_hash(view): view for service in services for view in service.views}
        return [view for digest, view in past.items() if digest not in now]

    def views_of(self, source: DeltaSource) -> list[FeatureView]:
        """Every view over the source's table that some service in force reads, each content once."""
        return _reading(source, self.views())

    def keys_of(self, source: DeltaSource, entity: Entity | str | None = None) -> list[tuple[str, ...]]:
        """The key columns of an entity (a name: that some service in force uses), or of every view of the source."""
        if isinstance(entity, Entity):
            return [tuple(entity.keys)]
        if entity is not None:
            known = {view.entity.name: view.keys for s in self.services() for view in s.views if view.entity}
            if entity not in known:
                raise UnknownName.of("entity in any applied feature service", entity, known)
            return [known[entity]]
        keys = list(dict.fromkeys(view.keys for view in self.views_of(source) if view.keys))
        if not keys:
            raise DefinitionError(
                f"source {source.name}: no view in force reads it by a key; apply one, or say entity=ml.Entity(...)"
            )
        return keys

    def past_views_of(self, source: DeltaSource) -> list[FeatureView]:
        """The past views over the source's table."""
        return _reading(source, self.past_views())

    def _stored(self, path: str) -> FeatureService:
        """A definition by its content's path, which never changes."""
        if path not in self._known:
            self._known[path] = service_from_text(self._read(path))
        return self._known[path]

    def _check_tables(self, service: FeatureService) -> None:
        """A source's name stands for one table, in all services: rows are ingested by it."""
        others = {s.name: (o.name, s.path) for o in self.services() if o.name != service.name for s in o.sources}
        for source in service.sources:
            user, path = others.get(source.name, (service.name, source.path))
            if path != source.path:
                raise DefinitionError(
                    f"feature service {service.name}: source '{source.name}' is path='{source.path}' here, but "
                    f"path='{path}' in the applied service {user}; give one of them another name"
                )

    def services(self) -> list[FeatureService]:
        """The services in force, by name."""
        return [self.get(name) for name in self.names()]

    def _entries(self, prefix: str = "services/") -> list[Any]:
        return [entry for batch in self._store.list(prefix) for entry in batch]

    def _read(self, path: str) -> str:
        return bytes(self._store.get(path).bytes()).decode()


def _mark(thing: Thing) -> str:
    return f"{_DROPPED}{hashlib.sha256(_marked(thing)).hexdigest()}.json"


def _marked(thing: Thing) -> bytes:
    return json.dumps(asdict(thing), sort_keys=True).encode()


def _local(lake: str) -> LocalStore:
    try:
        return LocalStore(Path(lake, _ROOT).absolute(), mkdir=True)
    except (OSError, BaseError) as error:
        raise ConfigError(f"lake='{lake}': nothing can be written there: {error}; name a folder of yours") from error


def _reading(source: DeltaSource, views: Iterable[FeatureView]) -> list[FeatureView]:
    return [view for view in views if (view.source.name, view.source.path) == (source.name, source.path)]


def changed_views(before: FeatureService, after: FeatureService) -> list[str]:
    """The names of views that are in both, defined differently."""
    old = {view.name: view_hash(view) for view in before.views}
    return [view.name for view in after.views if old.get(view.name, view_hash(view)) != view_hash(view)]


def _changes(before: FeatureService | None, after: FeatureService) -> Iterable[str]:
    if before is None:
        yield from (f"+ {name}" for name in after.names)
        return
    changed = changed_views(before, after)
    yield from (f"~ feature view {name}" for name in changed)
    yield from (f"+ {name}" for name in after.names if name not in before.names)
    yield from (f"- {name}" for name in before.names if name not in after.names)
    if service_hash(before) == service_hash(after):
        yield f"= {len(after.names)} features, nothing changed"
    elif not changed and before.names == after.names:
        yield "~ on-demand functions, request types or order"
