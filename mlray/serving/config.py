"""The settings of a server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from mlray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How models are served; a table `[serving]` holds the same names.

    allow_at        a request may say as of when it asks; else every answer is as of its arrival
    max_body_bytes, max_rows    of one request; more is refused unread
    log             folder or URL of the prediction log; a relative one lies under the lake
    log_rows, log_seconds       written when so many rows wait, or when the oldest has waited so long
    log_capacity    rows that may wait; beyond it requests are refused until rows are written
    replicas, cpus  processes, and logical CPUs of each
    ready_seconds   how long `deploy` waits for the first answer
    ingest          sources to which events may be sent: their names, or true for every source in force. The endpoint
                    asks for no credentials, so none is by default
    explain         models whose predictions may be explained: their names, or true for every one that is served
    max_explained   rows of one request to explain
    max_events, max_events_bytes    of one request to it
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allow_at: bool = False
    max_body_bytes: int = 1 << 20
    max_rows: int = 1000
    log: str = "predictions"
    log_rows: int = 1000
    log_seconds: float = 2.0
    log_capacity: int = 100_000
    replicas: int = 1
    cpus: float = 1.0
    ready_seconds: float = 120.0
    ingest: tuple[str, ...] | bool = False
    explain: tuple[str, ...] | bool = False
    max_explained: int = 20
    max_events: int = 10_000
    max_events_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        self._require(1 <= self.port <= 65535, "port", "a port from 1 to 65535")
        counts = ("max_body_bytes", "max_rows", "log_rows", "replicas", "max_events", "max_events_bytes")
        for name in (*counts, "max_explained"):
            self._require(getattr(self, name) >= 1, name, "1 or more")
        for name in ("log_seconds", "ready_seconds"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(self.cpus >= 0, "cpus", "0 or more")
        self._require(bool(self.log), "log", "a folder or a URL: every prediction is logged")
        for name in ("max_rows", "max_explained"):
            most = getattr(self, name)
            self._require(self.log_capacity >= most, "log_capacity", f"{name}={most} or more")

    def _require(self, met: bool, name: str, wanted: str) -> None:
        if not met:
            raise ConfigError(f"serving: {name}={getattr(self, name)!r}; it must be {wanted}")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a table of a TOML file; ConfigError for a name or a type that does not exist here."""
        kinds = {field.name: field.type for field in fields(cls)}
        lists = {key: _names(key, settings[key], of) for key, of in _LISTS.items() if key in settings}
        settings = {**settings, **lists}
        for key, value in settings.items():
            if key not in kinds:
                raise ConfigError.unknown_key("serving", key, kinds)
            if key not in _LISTS:
                _check_type(key, value, str(getattr(kinds[key], "__name__", kinds[key])))
        return cls(**settings)

    def explains(self, model: str) -> bool:
        """Whether predictions of a model of this name may be explained."""
        return self.explain if isinstance(self.explain, bool) else model in self.explain


_LISTS: Mapping[str, str] = {"ingest": "sources", "explain": "models"}
"""Settings that are names, or all or none, and of what."""


def _names(key: str, value: object, of: str) -> tuple[str, ...] | bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ConfigError(f"serving: {key}={value!r}; it must be true, false or a list of names of {of}")


def _check_type(key: str, value: object, wanted: str) -> None:
    got = type(value).__name__
    if got != wanted and not (wanted == "float" and got == "int"):
        raise ConfigError(f"serving: {key}={value!r} is {got}; it must be {wanted}")
