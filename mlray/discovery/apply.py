"""Putting a service in force, of which something was dropped before: the registry lets it serve again."""

from collections.abc import Callable
from dataclasses import dataclass

from mlray.features.applied import Applied, Diff
from mlray.features.catalog import service_from_text, service_text
from mlray.features.service import FeatureService
from mlray.features.thing import Thing
from mlray.registry.client import Registry


@dataclass(frozen=True)
class Applying:
    """What applying does to the catalog under the lake, wherever the registry's rules run. text: of the service, which
    needs no module of the user's.
    """

    lake: str
    text: str
    things: tuple[Thing, ...]

    def apply(self) -> Diff:
        """Puts the service in force."""
        return Applied(self.lake).apply(service_from_text(self.text))

    def unmark(self) -> None:
        """Forgets that the things were dropped."""
        for thing in self.things:
            Applied(self.lake).unmark(thing)


def apply(applied: Applied, registry: Callable[[], Registry], service: FeatureService) -> Diff:
    """Puts the service in force. The registry is asked for only where the catalog bears a mark that something of the
    service was dropped.
    """
    back = tuple(thing for thing in applied.dropped() if thing.is_read_by(service.name, service.views))
    if not back:
        return applied.apply(service)
    text = service_text(service)
    return registry().apply_again(text, Applying(applied.lake, text, back))
