"""Free text in the registry: descriptions, tags, sources; under one rule, so that every database gives it back."""

import re
from collections.abc import Mapping

from mlray.errors import InvalidName

MAX_KEY, MAX_TAGS = 250, 1000
MAX_TEXT = 100_000
MAX_SOURCE = 2048
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether every database keeps the text."""
    return "\x00" not in text and _SURROGATE.search(text) is None


def checked_text(kind: str, text: str, most: int = MAX_TEXT) -> str:
    """`text` itself, of at most `most` characters, none of them NUL or half of a pair; else InvalidName."""
    if not isinstance(text, str):
        raise InvalidName(f"{kind} is a text, not {type(text).__name__}")
    if len(text) > most:
        raise InvalidName(f"{kind} has at most {most} characters, this one {len(text)}")
    if not is_storable(text):
        raise InvalidName(f"{kind} {text!r:.100} holds a NUL or half of a surrogate pair, which no database keeps")
    return text


def checked_key(key: str) -> str:
    """The key of a tag: 1 to MAX_KEY characters, no control characters, no blank at either end."""
    checked_text("tag key", key, MAX_KEY)
    if not key or _CONTROL.search(key) or key != key.strip():
        raise InvalidName(f"tag key {key!r} is refused: it has 1 to {MAX_KEY} characters, none a control character")
    return key


def checked_tags(tags: object) -> dict[str, str]:
    """Tags by key, each of them plain text; at most MAX_TAGS, for each is a row that is written under the lock."""
    if not isinstance(tags, Mapping):
        raise InvalidName(f"tags are a mapping of texts, not {type(tags).__name__}")
    if len(tags) > MAX_TAGS:
        raise InvalidName(f"{len(tags)} tags are more than the {MAX_TAGS} that a model or a version is made with")
    return {checked_key(key): checked_text(f"tag '{key}'", value) for key, value in tags.items()}


def checked_source(source: str) -> str:
    """Where bytes are said to be, a URI or a path: 1 to MAX_SOURCE bytes of UTF-8, no control characters."""
    checked_text("source", source, MAX_SOURCE)
    if not source or _CONTROL.search(source) or len(source.encode()) > MAX_SOURCE:
        raise InvalidName(f"source {source!r:.100} is refused: it has 1 to {MAX_SOURCE} bytes, no control characters")
    return source
