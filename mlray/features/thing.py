"""What of the catalog goes by a name: a view, a source or a service; and which views a name means."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlray.features.catalog import view_hash
from mlray.features.view import FeatureView


@dataclass(frozen=True)
class Thing:
    """A view, a source or a service by its name; definitions: the content hashes of the views that are meant besides,
    whoever owns them now.
    """

    kind: Literal["view", "source", "service"]
    name: str
    definitions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def means(self, view: FeatureView) -> bool:
        """Whether it is this view, or what the view reads. A service is no view."""
        if self.kind == "view":
            return called(self.name, owned(view)) or view_hash(view) in self.definitions
        return self.kind == "source" and view.source.name == self.name

    def is_read_by(self, service: str, views: Iterable[FeatureView]) -> bool:
        """Whether who reads the service of this name, and these views, reads it."""
        return (self.kind == "service" and service == self.name) or any(self.means(view) for view in views)


def owned(view: FeatureView) -> str:
    """The view's name with its owner's, `payments/spending`."""
    return f"{view.owner}/{view.name}" if view.owner else view.name


def called(name: str, known: str) -> bool:
    """Whether `name` means `known`, with or without its owner."""
    return name in (known, known.rpartition("/")[2])
