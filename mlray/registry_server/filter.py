"""Searches as text: conditions joined by AND, in the grammar that MLflow's clients use.

    name = 'fraud' AND tags.team LIKE 'pay%' AND version >= 3
    tags.`two words` != "x" AND run_id IN ('a', 'b') AND attribute.name ILIKE 'F%'

A field stands alone or behind `attribute.`; a tag behind `tag.` or `tags.`, in backticks where its key has blanks.
Comparisons are = != < <= > >= LIKE ILIKE IN, NOT IN; a quote inside a text is written twice. There is no OR and no
bracket but around a list. An error names the character where reading stopped, counted from 1.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mlray.errors import InvalidQuery, did_you_mean
from mlray.registry.query import Order, TagWhere, Where

FIELDS: Mapping[str, str] = {
    name: name for name in ("name", "version", "run_id", "source", "stage", "alias", "service", "digest")
}
ORDERS: Mapping[str, str] = {name: name for name in ("name", "version", "created_at", "updated_at")}
_TOKEN = re.compile(
    r"(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    r"|(?P<number>-?[0-9]+)(?![\w.])"
    r"|(?P<word>[A-Za-z_]\w*(?:\.(?:`[^`]+`|\"[^\"]+\"|[\w./-]+))?)"
    r"|(?P<sign>!=|<=|>=|[=<>(),])"
)
_BLANK = re.compile(r"\s*")
_ATTRIBUTE, _TAG = ("attribute", "attributes"), ("tag", "tags")
_COMPARISONS = ("=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "IN")
Condition = Where | TagWhere


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_filter(text: str, fields: Mapping[str, str] = FIELDS) -> tuple[Condition, ...]:
    """The conditions of a filter; none of an empty one. fields: what the text calls a field, to what a query does."""
    if not text.strip():
        return ()
    return tuple(_Reader(text, fields).conditions())


def parse_order(text: str, fields: Mapping[str, str] = ORDERS) -> Order:
    """`created_at`, `created_at ASC` or `created_at DESC`."""
    words = text.split()
    if not 1 <= len(words) <= 2 or (len(words) == 2 and words[1].upper() not in ("ASC", "DESC")):
        raise InvalidQuery(f"order_by {_shown(text)}: write a field, and perhaps ASC or DESC")
    name = words[0].strip("`").removeprefix("attribute.")
    if name not in fields:
        raise InvalidQuery(f"order_by {_shown(text)}: there is no field '{name}'{did_you_mean(name, fields)}")
    return Order(field=fields[name], descending=words[-1].upper() == "DESC")  # type: ignore[arg-type]


class _Reader:
    """Reads a filter from left to right."""

    def __init__(self, text: str, fields: Mapping[str, str]) -> None:
        self._text, self._fields = text, fields
        self._tokens = list(_tokens(text))
        self._next = 0

    def conditions(self) -> Iterator[Condition]:
        while True:
            yield from self._condition()
            if self._peek().kind == "end":
                return
            if not self._takes("AND"):
                self._refuse("AND or the end")

    def _condition(self) -> Iterator[Condition]:
        at, name = self._identifier()
        is_not = self._takes("NOT")
        comparison = self._take().text.upper()
        if comparison not in _COMPARISONS or (is_not and comparison != "IN"):
            self._next -= 1
            self._refuse("IN" if is_not else "a comparison, one of = != < <= > >= LIKE ILIKE IN, NOT IN")
        value: Any = self._list() if comparison == "IN" else self._value()
        try:
            if is_not:
                yield from (_condition(name, "!=", one) for one in value)
            else:
                yield _condition(name, comparison, value)
        except InvalidQuery as error:
            raise InvalidQuery(f"the filter, from character {at}: {error}") from error

    def _identifier(self) -> tuple[int, tuple[str, str]]:
        """Where it stands; and a kind, `tag` or `field`, with the tag's key or the query's name of the field."""
        token = self._take()
        if token.kind != "word":
            self._next -= 1
            self._refuse("a field or tags.KEY")
        head, dot, rest = token.text.partition(".")
        if dot and head.lower() in _TAG:
            return token.at, ("tag", rest.strip('`"'))
        name = rest.strip('`"') if dot and head.lower() in _ATTRIBUTE else token.text
        if name not in self._fields:
            known = did_you_mean(name, self._fields)
            where = f"the filter, at character {token.at}"
            raise InvalidQuery(f"{where}: there is no field '{name}'{known}; tags are tags.KEY")
        return token.at, ("field", self._fields[name])

    def _value(self) -> str | int:
        token = self._take()
        if token.kind == "text":
            return _unquoted(token.text)
        if token.kind != "number" or len(token.text) > 19:
            self._next -= 1
            self._refuse("a text in quotes, or a number")
        return int(token.text)

    def _list(self) -> tuple[str, ...]:
        if not self._takes("("):
            self._refuse("a list such as ('a', 'b')")
        found = []
        while True:
            token = self._take()
            if token.kind != "text":
                self._next -= 1
                self._refuse("a text in quotes")
            found.append(_unquoted(token.text))
            if self._takes(")"):
                return tuple(found)
            if not self._takes(","):
                self._refuse("a comma or a closing bracket")

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _takes(self, word: str) -> bool:
        token = self._peek()
        found = token.kind in ("word", "sign") and token.text.upper() == word
        self._next += found
        return found

    def _refuse(self, wanted: str) -> NoReturn:
        token = self._peek()
        got = "the end" if token.kind == "end" else _shown(token.text)
        raise InvalidQuery(f"the filter, at character {token.at}: {wanted} is due, not {got}")


def _tokens(text: str) -> Iterator[_Token]:
    at = _blanks(text, 0)
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            hint = "; the text's closing quote is missing" if text[at] in "'\"" else ""
            raise InvalidQuery(f"the filter, at character {at + 1}: {_shown(text[at:at + 20])} cannot be read{hint}")
        yield _Token(found.lastgroup or "", found[0], at + 1)
        at = _blanks(text, found.end())
    yield _Token("end", "", len(text) + 1)


def _blanks(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _condition(name: tuple[str, str], operator: Any, value: Any) -> Condition:
    kind, key = name
    if kind == "tag":
        return TagWhere(key=key, operator=operator, value=value)
    field: Any = key
    return Where(field=field, operator=operator, value=value)


def _unquoted(text: str) -> str:
    quote = text[0]
    return text[1:-1].replace(2 * quote, quote)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
