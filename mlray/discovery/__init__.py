"""What there is, who uses it, and what may go: entities, sources, views, services and the models that read them."""

from mlray.discovery.apply import apply
from mlray.discovery.describe import describe
from mlray.discovery.drop import Drop, drop
from mlray.discovery.find import Found, find
from mlray.discovery.impact import Fed, impact
from mlray.discovery.inventory import Inventory

__all__ = ["Drop", "Fed", "Found", "Inventory", "apply", "describe", "drop", "find", "impact"]
