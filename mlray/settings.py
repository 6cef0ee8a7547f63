"""Where things lie. From arguments, a TOML file's [platform] table, or MLRAY_* variables, which win over the file."""

import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlray.errors import ConfigError

# Ray sets it in the driver of a submitted job, whose working directory is an unpacked copy that will be deleted.
_JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_PREFIX = "MLRAY_"


class Settings(BaseSettings):
    """lake: folder or URL of the Delta tables. online: lmdb://, redis://, memory://. registry: sqlite:///, postgresql://.

    artifacts: folder or URL of the checkpoints. ray: address of a cluster (None: RAY_ADDRESS, else a local one).
    What is not given lies under the lake. Relative paths are taken from the current directory, and refused in a
    submitted job. token: names the caller to the registry. future: how much later than now an event may be that is
    ingested, as a timedelta or in seconds.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    lake: str = "mlray_data"
    online: str = ""
    registry: str = ""
    artifacts: str = ""
    ray: str | None = None
    token: str | None = Field(default=None, repr=False)
    future: timedelta = timedelta(minutes=10)

    def __init__(self, **given: Any) -> None:
        given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _readable(error, given) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """From the [platform] table of a TOML file."""
        table = read_toml(path).get("platform", {})
        return cls(**{k: v for k, v in table.items() if _PREFIX + k.upper() not in os.environ})

    @model_validator(mode="after")
    def _complete(self) -> Self:
        under = self.lake.removeprefix("file://").rstrip("/")
        for name, default in (
            ("online", f"lmdb://{under}/_mlray/online"),
            ("artifacts", f"{under}/_mlray/artifacts"),
            ("registry", f"sqlite:///{under}/_mlray/registry.db"),
        ):
            object.__setattr__(self, name, getattr(self, name) or default)
        for name in ("lake", "online", "registry", "artifacts"):
            object.__setattr__(self, name, _absolute(name, getattr(self, name)))
        return self


def read_toml(path: str | Path) -> dict[str, Any]:
    """The file's tables; ConfigError where it is missing or not TOML."""
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no configuration at {path} (current directory: {Path.cwd()}); name one with --config or "
            "MLRAY_CONFIG, make a project with `mlray init`, or write a file whose table [platform] names the lake"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _absolute(name: str, value: str) -> str:
    """A local path made absolute; URLs of elsewhere as they are."""
    value = value.removeprefix("file://")
    prefix = next((p for p in ("lmdb://", "sqlite:///") if value.startswith(p)), "")
    rest = value.removeprefix(prefix)
    if (not prefix and "://" in value) or (prefix and not rest) or Path(rest).is_absolute():
        return value
    if _JOB_MARK in os.environ:
        raise ConfigError(
            f"{name}={value!r} is relative, but a submitted job runs in an unpacked copy that is deleted afterwards; "
            f"give an absolute path or URL, for example {_PREFIX}{name.upper()} in the job's runtime_env env_vars"
        )
    return f"{prefix}{Path(rest).absolute()}"


def _readable(error: ValidationError, given: Mapping[str, Any]) -> ConfigError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] == "extra_forbidden":
        return ConfigError.unknown_key("platform", name, Settings.model_fields)
    return ConfigError(f"platform: {name}={given.get(name)!r}: {first['msg']}")
