"""The wall clock, which only the edges of the registry read; the rules are handed the time."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)
