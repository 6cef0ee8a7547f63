"""What features describe: a user, an airport, a pair of a carrier and a destination."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from mlray.errors import DefinitionError
from mlray.features.naming import checked_name, repeated


@dataclass(frozen=True)
class Entity:
    """A kind of thing, named by the typed values of its key columns together."""

    name: str
    _: KW_ONLY
    keys: Sequence[str]

    def __post_init__(self) -> None:
        checked_name("entity", self.name)
        if isinstance(self.keys, str) or not self.keys:
            raise DefinitionError(f"entity {self.name}: keys is a list of columns, such as keys=['user_id']")
        if again := repeated(list(self.keys)):
            raise DefinitionError(f"entity {self.name}: key {again[0]!r} is listed twice")
        object.__setattr__(self, "keys", tuple(self.keys))
