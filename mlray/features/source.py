"""Where rows come from: a Delta table of events, or fields of the request itself."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import date, datetime, timedelta

from mlray.aggregation.window import microseconds
from mlray.errors import DefinitionError, UnknownName
from mlray.features.naming import checked_name

REQUEST_TYPES: dict[type, str] = {
    float: "float64",
    int: "int64",
    str: "string",
    bool: "bool",
    datetime: "timestamp",
    date: "date",
}


@dataclass(frozen=True)
class DeltaSource:
    """A Delta table at `path` (relative paths lie under the lake).

    timestamp: the event time column; None for a table that is valid at every instant.
    known_at: when a row became known; a row is invisible before.
    sequence: names an event together with key and time, and orders events of one instant.
    lag: how late data may be read: every read at q sees p = q - lag.
    select: columns added or replaced by row-level SQL; where: row-level SQL predicate, null drops the row.
    """

    name: str
    _: KW_ONLY
    path: str
    timestamp: str | None
    known_at: str | None = None
    sequence: str | None = None
    lag: timedelta = timedelta(0)
    select: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None

    def __post_init__(self) -> None:
        checked_name("source", self.name)
        object.__setattr__(self, "select", _Frozen(self.select))
        if self.lag < timedelta(0):
            raise DefinitionError(f"source {self.name}: lag={self.lag} is negative: that would read the future")
        if self.timestamp is None and self.lag:
            raise DefinitionError(f"source {self.name}: a table without timestamp has no lag; remove lag")

    @property
    def lag_us(self) -> int:
        return microseconds(self.lag)


class _Frozen(dict[str, str]):
    """A mapping of text that can be hashed, so that declarations are values."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@dataclass(frozen=True)
class RequestSource:
    """Fields that arrive with the request; in a training set, the spine columns of the same names."""

    name: str
    _: KW_ONLY
    schema: Mapping[str, type]

    def __post_init__(self) -> None:
        checked_name("request source", self.name)
        for column, kind in self.schema.items():
            checked_name("request field", column)
            if kind not in REQUEST_TYPES:
                kinds = ", ".join(k.__name__ for k in REQUEST_TYPES)
                raise DefinitionError(f"request source {self.name}: field {column!r} is {kind!r}; use one of {kinds}")
        object.__setattr__(self, "schema", _FrozenTypes(self.schema))

    def __getitem__(self, columns: str | tuple[str, ...]) -> "RequestFields":
        chosen = (columns,) if isinstance(columns, str) else tuple(columns)
        for column in chosen:
            if column not in self.schema:
                raise UnknownName.of(f"field of request source {self.name}", column, self.schema)
        return RequestFields(self, chosen)


class _FrozenTypes(dict[str, type]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


@dataclass(frozen=True)
class RequestFields:
    """Some fields of a request source."""

    source: RequestSource
    columns: tuple[str, ...]
