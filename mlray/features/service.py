"""What one model reads: features of views, request fields and on-demand features, in one order."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

from mlray.errors import DefinitionError
from mlray.features.naming import checked_name, repeated
from mlray.features.on_demand import OnDemand
from mlray.features.source import DeltaSource, RequestFields, RequestSource
from mlray.features.view import BoundView, FeatureView

Item = BoundView | RequestFields | OnDemand


@dataclass(frozen=True)
class FeatureService:
    """A named, ordered list of features. Two features of one name are an error."""

    name: str
    _: KW_ONLY
    features: Sequence[FeatureView | RequestSource | Item]

    def __post_init__(self) -> None:
        checked_name("feature service", self.name)
        if not isinstance(self.features, list | tuple) or not self.features:
            raise DefinitionError(f"feature service {self.name}: features={self.features!r} is no list of features")
        object.__setattr__(self, "features", tuple(_item(self.name, f) for f in self.features))
        if again := repeated(self.names):
            raise DefinitionError(
                f"feature service {self.name}: two features are named '{again[0]}'; use .prefixed('...') on one of them"
            )
        self._check_definitions()

    def _check_definitions(self) -> None:
        for kind, things in (("feature views", self.views), ("sources", self.sources)):
            names = [t.name for t in things]
            if again := repeated(names):
                raise DefinitionError(f"feature service {self.name}: two different {kind} are named '{again[0]}'")

    @property
    def items(self) -> tuple[Item, ...]:
        return tuple(f for f in self.features if isinstance(f, BoundView | RequestFields | OnDemand))

    @property
    def names(self) -> list[str]:
        """The feature names, in order: the model's input."""
        return [name for item in self.items for name in item_names(item)]

    @property
    def on_demand(self) -> tuple[OnDemand, ...]:
        return tuple(i for i in self.items if isinstance(i, OnDemand))

    @property
    def reads(self) -> tuple[BoundView, ...]:
        """Each reading of a view that an output or an on-demand input needs, once."""
        return tuple(dict.fromkeys(part.whole for part in self._parts() if isinstance(part, BoundView)))

    @property
    def views(self) -> tuple[FeatureView, ...]:
        return tuple(dict.fromkeys(read.view for read in self.reads))

    @property
    def sources(self) -> tuple[DeltaSource, ...]:
        return tuple(dict.fromkeys(view.source for view in self.views))

    @property
    def request(self) -> dict[str, type]:
        """The request fields that a caller must send, and their types."""
        fields: dict[str, type] = {}
        for part in self._parts():
            if isinstance(part, RequestFields):
                fields |= {c: part.source.schema[c] for c in part.columns}
        for function in self.on_demand:
            for source in (i for i in function.inputs if isinstance(i, RequestSource)):
                fields |= {c: t for c, t in source.schema.items() if c in function.parameters}
        return fields

    @property
    def keys(self) -> tuple[str, ...]:
        """The spine columns that name entities, each once."""
        return tuple(dict.fromkeys(key for read in self.reads for key in read.spine_keys))

    def _parts(self) -> Iterator[BoundView | RequestFields]:
        for item in self.items:
            if isinstance(item, OnDemand):
                yield from (i for i in item.inputs if isinstance(i, BoundView))
            else:
                yield item


def item_names(item: Item) -> list[str]:
    """The output names of one item of a service."""
    if isinstance(item, OnDemand):
        return [item.name]
    return list(item.columns) if isinstance(item, RequestFields) else item.names


def origins(service: FeatureService) -> dict[str, str]:
    """By feature, where it comes from, in words."""
    return {name: _origin(item) for item in service.items for name in item_names(item)}


def _origin(item: Item) -> str:
    if isinstance(item, OnDemand):
        return "of no view: computed on demand"
    if isinstance(item, RequestFields):
        return f"of request source '{item.source.name}'"
    return f"of view '{item.view.name}'"


def read_views(item: Item) -> list[FeatureView]:
    """The views that one item of a service reads, itself or through an on-demand function."""
    parts = item.inputs if isinstance(item, OnDemand) else (item,)
    return [part.view for part in parts if isinstance(part, BoundView)]


def _item(service: str, feature: object) -> Item:
    if isinstance(feature, FeatureView):
        return BoundView(feature)
    if isinstance(feature, RequestSource):
        return RequestFields(feature, tuple(feature.schema))
    if isinstance(feature, BoundView | RequestFields | OnDemand):
        return feature
    raise DefinitionError(
        f"feature service {service}: {feature!r} is no feature view, request source, field of one or on-demand feature"
    )
