"""The settings of the registry's server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import urlsplit

from mlray.errors import ConfigError

SOURCES = ("runs", "mlflow-artifacts", "s3", "gs", "abfss", "wasbs", "dbfs")
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "host": str, "port": int, "url": str, "max_body_bytes": int, "max_file_bytes": int, "retry_seconds": (int, float),
    "sources": (list, tuple),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the registry is served; a table `[registry_server]` holds the same names.

    url             under which clients reach the server, where it is not what their requests say (behind a proxy)
    max_body_bytes  of one request of JSON; more is refused unread
    max_file_bytes  of one file of a model
    retry_seconds   within which an MLflow client that creates the same version again is taken to repeat itself
    sources         schemes of URIs that an MLflow client may register without bytes
    """

    host: str = "127.0.0.1"
    port: int = 8600
    url: str = ""
    max_body_bytes: int = 16 << 20
    max_file_bytes: int = 64 << 30
    retry_seconds: float = 1800.0
    sources: tuple[str, ...] = SOURCES

    def __post_init__(self) -> None:
        self._require(0 <= self.port <= 65535, "port", "a port from 0 (any free one) to 65535")
        for name in ("max_body_bytes", "max_file_bytes"):
            self._require(getattr(self, name) >= 1, name, "1 or more")
        self._require(self.retry_seconds >= 0, "retry_seconds", "0 or more")
        known = urlsplit(self.url)
        whole = known.scheme in ("http", "https") and bool(known.netloc) and not known.query
        self._require(not self.url or whole, "url", "http:// or https://, a host and perhaps a path")
        refused = [scheme for scheme in self.sources if scheme in ("file", "models", "")]
        self._require(not refused, "sources", "without 'file' and 'models': the server reads no path of a caller")

    def _require(self, met: bool, name: str, wanted: str) -> None:
        if not met:
            raise ConfigError(f"registry_server: {name}={getattr(self, name)!r}; it must be {wanted}")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the host."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """From a table of a TOML file; ConfigError for a name or a type that does not exist here."""
        names = [field.name for field in fields(cls)]
        for key, value in settings.items():
            if key not in names:
                raise ConfigError.unknown_key("registry_server", key, names)
            if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
                raise ConfigError(f"registry_server: {key}={value!r} is {type(value).__name__}")
        if not all(isinstance(scheme, str) for scheme in settings.get("sources", ())):
            raise ConfigError(f"registry_server: sources={settings['sources']!r}; it must be a list of schemes")
        known: dict[str, Any] = {**settings}
        if "sources" in known:
            known["sources"] = tuple(known["sources"])
        return cls(**known)
