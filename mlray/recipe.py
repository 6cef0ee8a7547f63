"""A recipe: one TOML file that says what the verbs work on: settings, service, tables, spine, training, serving."""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlray.errors import ConfigError
from mlray.features.expression import predicate
from mlray.features.service import FeatureService
from mlray.registry.card_text import checked_card
from mlray.settings import Settings, read_toml

_SECTIONS: Mapping[str, tuple[str, ...] | None] = {
    "platform": None,
    "recipe": ("service", "baseline", "tables", "spine", "timestamp", "label", "options", "where"),
    "training": None,
    "gates": None,
    "model": ("name", "alias", "card"),
    "online": ("until", "history_days"),
    "serving": None,
    "registry_server": None,
    "verify": ("rows",),
}
_OF_OTHERS = ("platform", "registry_server")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The file at `path`, its sections as plain tables; what they name is imported when it is asked for."""

    path: Path
    settings: Settings
    recipe: Mapping[str, Any]
    training: Mapping[str, Any]
    gates: Mapping[str, Any]
    model: Mapping[str, Any]
    online: Mapping[str, Any]
    serving: Mapping[str, Any]
    verify: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """ConfigError for a section or key that is not known."""
        tables = read_toml(path)
        for section, table in tables.items():
            if section not in _SECTIONS:
                raise ConfigError.unknown_key(str(path), section, _SECTIONS)
            for key in table:
                keys = _SECTIONS[section]
                if keys is not None and key not in keys:
                    raise ConfigError.unknown_key(f"{path} [{section}]", key, keys)
        sections = {name: tables.get(name, {}) for name in _SECTIONS if name not in _OF_OTHERS}
        return cls(path=Path(path), settings=Settings.load(path), **sections)

    @property
    def service(self) -> FeatureService:
        """The feature service that the model reads."""
        return self._service("service")

    @property
    def baseline(self) -> FeatureService | None:
        """A service to compare with, if any."""
        return self._service("baseline") if "baseline" in self.recipe else None

    @property
    def timestamp(self) -> str:
        return str(self.recipe.get("timestamp", "timestamp"))

    @property
    def label(self) -> str | None:
        return self.recipe.get("label")

    @property
    def model_name(self) -> str:
        return str(self.model.get("name", self.service.name))

    @property
    def alias(self) -> str:
        return str(self.model.get("alias", "candidate"))

    @property
    def card(self) -> dict[str, str]:
        """What is said about the model to people: purpose, owner, limits, and what else [model.card] holds."""
        return checked_card(self.model.get("card", {}), f"{self.path} [model.card]")

    @property
    def until(self) -> datetime | None:
        """Up to when the online store is loaded; None: now."""
        until = self.online.get("until")
        if until is not None and not isinstance(until, datetime):
            raise ConfigError(f"{self.path} [online] until={until!r} is no instant; write it as 2026-01-31T00:00:00Z")
        return until

    @property
    def history(self) -> timedelta:
        """From how long before `until` answers are exact."""
        return timedelta(days=self._number("online", self.online, "history_days", 0))

    @property
    def verify_rows(self) -> int:
        return int(self._number("verify", self.verify, "rows", 1000))

    def tables(self) -> dict[str, pa.Table]:
        """The rows to ingest, by source name."""
        made: dict[str, pa.Table] = self._function("tables")(**self.recipe.get("options", {}))
        return made

    def spine(self) -> Any:
        """The spine: what the named function gives, or a Delta path; rows for which `where` is not true are
        left out.
        """
        if ":" not in self._named("spine"):
            return self._named("spine")
        spine = self._function("spine")(**self.recipe.get("options", {}))
        where = self.recipe.get("where")
        return spine.filter(predicate(spine, where, f"{self.path} [recipe]")) if where else spine

    def _number(self, section: str, table: Mapping[str, Any], key: str, otherwise: float) -> float:
        value = table.get(key, otherwise)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{self.path} [{section}] {key}={value!r} is no number")
        return value

    def _service(self, key: str) -> FeatureService:
        found = self._attribute(key)
        if not isinstance(found, FeatureService):
            raise ConfigError(f"{self.path} [recipe] {key}: {self._named(key)} is no FeatureService but {type(found)}")
        return found

    def _function(self, key: str) -> Callable[..., Any]:
        found: Callable[..., Any] = self._attribute(key)
        return found

    def _named(self, key: str) -> str:
        if key not in self.recipe:
            raise ConfigError(f"{self.path} [recipe] needs '{key}' for this verb: {key} = \"module:attribute\"")
        return str(self.recipe[key])

    def _attribute(self, key: str) -> Any:
        module, _, name = self._named(key).partition(":")
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.path} [recipe] {key}: {self._named(key)} cannot be imported: {error}") from error
