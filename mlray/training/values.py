"""Values of settings: as files and notebooks spell them, as JSON has them, and what is said of one that is no use."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlray.errors import ConfigError, TimeError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def section(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """`kind` of these settings; ConfigError for one that it does not have."""
    known = [f.name for f in fields(kind)]
    for key in given:
        if key not in known:
            raise ConfigError.unknown_key(f"training: {kind.__name__.lower()}", key, known)
    return kind(**given)


def plain(value: Any) -> Any:
    """As JSON has it: instants as ISO texts in UTC, durations in seconds, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value


def instant(value: datetime | str) -> datetime:
    """The datetime itself, or one from its ISO text; TimeError without a time zone."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise TimeError.naive("split", found)
    return found


def duration(value: timedelta | float | str) -> timedelta:
    """The timedelta itself, or one from a number of seconds or a text: "90s", "30m", "36h", "7d"."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float):
        return timedelta(seconds=value)
    number, unit = value[:-1], value[-1:]
    require(number.isdigit() and unit in SECONDS, "embargo", value, "a text as '36h' or '7d', or seconds")
    return timedelta(seconds=int(number) * SECONDS[unit])


def label_text(label: Any) -> str:
    """A label as a key: '1' for 1, 1.0, True and '1'."""
    if isinstance(label, str):
        return label
    return str(int(label)) if float(label).is_integer() else f"{float(label):g}"


def check_place(storage: str, run: str | None) -> None:
    """ConfigError where no run can lie: a checkpoint is written aside and renamed, which object stores do not do."""
    path = "a directory that every node sees (NFS, a mounted volume), and no URL"
    require("://" not in str(storage), "storage", storage, path)
    named = run is None or (Path(run).name == run and not run.startswith("."))
    require(named, "run", run, "a plain name, without '/' and without '.' in front")


def require(holds: bool, name: str, value: object, needed: str) -> None:
    if not holds:
        raise ConfigError(f"training: {name} is {value!r}; it must be {needed}")
