"""Names of models and aliases, and references to one version: `flights/3`, `flights@candidate`, `flights/Production`.

One rule for both kinds of name: a lower-case ASCII letter, then lower-case ASCII letters, digits, `_` and
`-`, at most 128 characters in all, and not `latest`. So no name is a number, a path, an option or a twin.
"""

import re
from dataclasses import dataclass
from typing import Self

from mlray.errors import InvalidName

MAX_NAME = 128
MAX_VERSION = 2**31 - 1
ONE_VERSION_STAGES = ("Canary", "Production")
"""The stages that take live traffic: at most one version of a model is in each."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_RESERVED = frozenset({"latest"})


def is_name(name: str) -> bool:
    """Whether something can be called so; nothing else is ever looked up."""
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


def checked_name(kind: str, name: str) -> str:
    """`name` itself, or InvalidName; `kind` is how the message calls it."""
    if not is_name(name):
        raise InvalidName(
            f"{kind} {_shown(name)} is refused: a name starts with a lower-case ASCII letter, goes on with "
            f"lower-case letters, digits, '_' and '-', has at most {MAX_NAME} characters and is not 'latest'"
        )
    return name


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """One version of a model, by number, by alias, or by a stage that one is in: exactly one of the three is set."""

    model: str
    version: int | None = None
    alias: str | None = None
    stage: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`<model>/<version>`, `<model>/<stage>` or `<model>@<alias>`; InvalidName for anything else."""
        model, slash, version = text.partition("/")
        if slash and _VERSION.fullmatch(version) and int(version) <= MAX_VERSION:
            return cls(model=checked_name("model", model), version=int(version))
        if slash and version in ONE_VERSION_STAGES:
            return cls(model=checked_name("model", model), stage=version)
        model, at, alias = text.partition("@")
        if at:
            return cls(model=checked_name("model", model), alias=checked_name("alias", alias))
        raise InvalidName(
            f"{_shown(text)} is no reference to a model version; write <model>/<version> as in flights/3, "
            "<model>@<alias> as in flights@candidate, or <model>/Production or <model>/Canary"
        )

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}" if self.alias is not None else f"{self.model}/{self.version or self.stage}"


def _shown(name: str) -> str:
    return repr(name if len(name) <= MAX_NAME + 16 else name[:MAX_NAME] + "...")
