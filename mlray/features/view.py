"""Features of one entity from one source."""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from datetime import timedelta

from mlray.aggregation.aggregate import Aggregate
from mlray.aggregation.window import Closed, microseconds
from mlray.errors import DefinitionError, UnknownName
from mlray.features.entity import Entity
from mlray.features.naming import checked_name, repeated
from mlray.features.source import DeltaSource


@dataclass(frozen=True)
class FeatureView:
    """Bare columns (their value in the latest row) and aggregations, per entity; entity=None is one global row.

    ttl: how old the latest row may be (None: any age); bare columns only.
    closed: 'right' lets the latest row lie at the instant itself, 'left' only before it.
    """

    name: str
    _: KW_ONLY
    entity: Entity | None
    source: DeltaSource
    features: Sequence[str | Aggregate]
    ttl: timedelta | None = None
    closed: Closed = "right"
    owner: str | None = None

    def __post_init__(self) -> None:
        checked_name("feature view", self.name)
        self._check_types()
        object.__setattr__(self, "features", tuple(self.features))
        if self.closed not in ("left", "right"):
            raise DefinitionError(f"feature view {self.name}: closed={self.closed!r} must be 'left' or 'right'")
        if again := repeated(self.names):
            raise DefinitionError(f"feature view {self.name}: two features are named {again[0]!r}; give one a name=")
        for name in self.names:
            checked_name(f"feature view {self.name}: feature", name)
        self._check_time()

    def _check_types(self) -> None:
        who = f"feature view {self.name}"
        if not isinstance(self.entity, Entity | None):
            raise DefinitionError(f"{who}: entity={self.entity!r} is no ml.Entity, nor None for one global row")
        if not isinstance(self.source, DeltaSource):
            raise DefinitionError(f"{who}: source={self.source!r} is no ml.DeltaSource")
        if not isinstance(self.ttl, timedelta | None):
            raise DefinitionError(f"{who}: ttl={self.ttl!r} is no duration; write ttl=hours(3)")
        if not isinstance(self.features, list | tuple) or not self.features:
            raise DefinitionError(f"{who}: features={self.features!r} is no list of columns and aggregations")
        for feature in self.features:
            if not isinstance(feature, str | Aggregate):
                raise DefinitionError(
                    f"{who}: {feature!r} is neither a column name nor an aggregation such as ml.Count"
                )

    def _check_time(self) -> None:
        if self.ttl is not None and self.ttl < timedelta(0):
            raise DefinitionError(f"feature view {self.name}: ttl={self.ttl} is negative")
        if self.source.timestamp is not None:
            return
        if self.aggregates:
            raise DefinitionError(
                f"feature view {self.name}: source {self.source.name} has no timestamp, so it gives bare columns only; "
                f"{self.aggregates[0].stem} needs an event time"
            )
        if self.ttl is not None or self.closed == "left":
            raise DefinitionError(f"feature view {self.name}: source {self.source.name} has no timestamp; remove ttl")

    @property
    def keys(self) -> tuple[str, ...]:
        """The entity's key columns; none for the global row."""
        return tuple(self.entity.keys) if self.entity else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The bare columns."""
        return tuple(f for f in self.features if isinstance(f, str))

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        return tuple(f for f in self.features if isinstance(f, Aggregate))

    @property
    def names(self) -> list[str]:
        """The feature names, in order of declaration."""
        return [name for f in self.features for name in _names(f)]

    @property
    def ttl_us(self) -> int | None:
        return None if self.ttl is None else microseconds(self.ttl)

    @property
    def reach(self) -> int | None:
        """How far before q a window can begin, in microseconds; None where one is a lifetime."""
        reaches = [w.reach for a in self.aggregates for w in a.spans]
        if any(r is None for r in reaches):
            return None
        return self.source.lag_us + max((r for r in reaches if r is not None), default=0)

    def on(self, **keys: str) -> "BoundView":
        """Reads this view by other spine columns: weather.on(airport='origin')."""
        return BoundView(self).on(**keys)

    def prefixed(self, prefix: str) -> "BoundView":
        """Puts `prefix` before every feature name."""
        return BoundView(self).prefixed(prefix)

    def __getitem__(self, names: str | Iterable[str]) -> "BoundView":
        return BoundView(self)[names]


def _names(feature: str | Aggregate) -> list[str]:
    return [feature] if isinstance(feature, str) else [feature.feature_name(w) for w in feature.spans]


@dataclass(frozen=True)
class BoundView:
    """A view as one service reads it: by which spine columns, under which names, which of its features."""

    view: FeatureView
    keys: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    chosen: tuple[str, ...] | None = None

    def on(self, **keys: str) -> "BoundView":
        for key in keys:
            if key not in self.view.keys:
                raise UnknownName.of(f"key of feature view {self.view.name}", key, self.view.keys)
        return replace(self, keys=tuple(keys.items()))

    def prefixed(self, prefix: str) -> "BoundView":
        return replace(self, prefix=checked_name("prefix", prefix))

    def __getitem__(self, names: str | Iterable[str]) -> "BoundView":
        chosen = (names,) if isinstance(names, str) else tuple(names)
        for name in chosen:
            if name not in self.view.names:
                raise UnknownName.of(f"feature of view {self.view.name}", name, self.view.names)
        return replace(self, chosen=chosen)

    @property
    def spine_keys(self) -> tuple[str, ...]:
        """The spine column of each entity key, in the entity's order."""
        named = dict(self.keys)
        return tuple(named.get(key, key) for key in self.view.keys)

    @property
    def renamed(self) -> dict[str, str]:
        """Every feature of the view and the name it has here, in order."""
        return {name: self.prefix + name for name in self.view.names}

    @property
    def names(self) -> list[str]:
        """The names of the chosen features here."""
        return [self.prefix + name for name in (self.chosen or self.view.names)]

    @property
    def whole(self) -> "BoundView":
        """The same reading with all features."""
        return replace(self, chosen=None)
