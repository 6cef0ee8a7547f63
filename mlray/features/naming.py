"""Which names a declaration may carry."""

import re

from mlray.errors import DefinitionError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def checked_name(kind: str, name: str) -> str:
    """`name` if it is letters, digits and '_', at most 128, not starting with a digit or '__'; else DefinitionError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
        raise DefinitionError(
            f"{kind} name {name!r}: use letters, digits and '_', at most 128, not starting with a digit or '__'"
        )
    return name


def repeated(names: list[str]) -> list[str]:
    """The names that occur more than once, in order of first occurrence."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]
