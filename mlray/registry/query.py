"""What can be asked of a registry with a hundred thousand versions: conditions, an order, and one page at a time.

Plain frozen data, checked when it is made; needs neither a database nor Ray. `search` runs it in SQL.

`=`, `!=` and `LIKE` compare text by code points; `ILIKE` takes the ASCII letters a and A for the same. In a pattern `%`
stands for any characters, `_` for one, and everything else for itself, a backslash too.
"""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from mlray.errors import InvalidQuery
from mlray.registry.texts import is_storable

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "IN"]
TextField = Literal["name", "run_id", "source", "stage", "alias", "service", "digest"]
OrderField = Literal["name", "version", "created_at", "updated_at"]
Value = str | int | tuple[str, ...]
Item = TypeVar("Item")

TEXT_OPERATORS = ("=", "!=", "LIKE", "ILIKE", "IN")
NUMBER_OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
MAX_PAGE = 10_000
MAX_CONDITIONS = 50
MAX_TEXT = 10_000
MAX_VALUES = 1000
_TEXT_FIELDS: tuple[str, ...] = get_args(TextField)


@dataclass(frozen=True, kw_only=True)
class Where:
    """A field of a version or a model against a value: a text, a number for `version`, a tuple of texts for `IN`.

    A version has several aliases: `alias` holds where one of them compares, with `!=` where none is the value. `stage`
    is what it is called here (Canary); `source` is empty for a version whose bytes are in the artifact store.
    """

    field: TextField | Literal["version"]
    operator: Operator
    value: Value

    def __post_init__(self) -> None:
        if self.field == "version":
            return _check_number(self)
        if self.field not in _TEXT_FIELDS:
            raise InvalidQuery.unknown("field", self.field, ("version", *_TEXT_FIELDS))
        return _check_text(self.field, self.operator, self.value)


@dataclass(frozen=True, kw_only=True)
class TagWhere:
    """A tag's value against a text: holds where the tag is there and compares, `!=` too. With `or_absent` it also holds
    where there is no tag of this key.
    """

    key: str
    operator: Operator
    value: str | tuple[str, ...]
    or_absent: bool = False

    def __post_init__(self) -> None:
        _check_text("tag key", "=", self.key)
        _check_text(f"tag '{self.key}'", self.operator, self.value)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One key of an order, ascending unless told otherwise. Text is ordered by code points."""

    field: OrderField
    descending: bool = False

    def __post_init__(self) -> None:
        if self.field not in get_args(OrderField):
            raise InvalidQuery.unknown("order", self.field, get_args(OrderField))


@dataclass(frozen=True, kw_only=True)
class VersionQuery:
    """Versions for which every condition holds, in order, `limit` (1 to MAX_PAGE) of them after `page_token`.

    Ties are broken by name and number, in the direction of the last key; without any, ascending. The token of a page
    belongs to its query.
    """

    where: tuple[Where | TagWhere, ...] = ()
    order_by: tuple[Order, ...] = ()
    limit: int = 100
    page_token: str | None = None

    def __post_init__(self) -> None:
        _check_page(self.where, self.order_by, self.limit)


@dataclass(frozen=True, kw_only=True)
class ModelQuery:
    """Models for which every condition holds: conditions on `name` and tags, orders but `version`; else as
    VersionQuery.
    """

    where: tuple[Where | TagWhere, ...] = ()
    order_by: tuple[Order, ...] = ()
    limit: int = 100
    page_token: str | None = None

    def __post_init__(self) -> None:
        _check_page(self.where, self.order_by, self.limit)
        for one in self.where:
            if isinstance(one, Where) and one.field != "name":
                raise InvalidQuery.unknown("field of a model", one.field, ("name",))
        for order in self.order_by:
            if order.field == "version":
                raise InvalidQuery.unknown("order of models", order.field, ("name", "created_at", "updated_at"))


@dataclass(frozen=True, kw_only=True)
class Page(Generic[Item]):
    """Some of what was found. `next_page_token` asks for what follows; None after the last page.

    What is there all the time is on exactly one page, whatever is registered between two of them. What moves in the
    order between two pages (`updated_at`) can be on both or on neither.
    """

    items: tuple[Item, ...]
    next_page_token: str | None = None


def _check_number(one: Where) -> None:
    if one.operator not in NUMBER_OPERATORS:
        raise InvalidQuery.unknown("comparison of version", one.operator, NUMBER_OPERATORS)
    if type(one.value) is not int or not -(2**31) < one.value < 2**31:
        raise InvalidQuery(f"version is compared with a number, not with {one.value!r}")


def _check_text(what: str, operator: str, value: object) -> None:
    if operator not in TEXT_OPERATORS:
        raise InvalidQuery.unknown(f"comparison of {what}", operator, TEXT_OPERATORS)
    values = value if operator == "IN" else (value,)
    if not isinstance(values, tuple) or not all(isinstance(one, str) for one in values):
        wanted = "a tuple of texts" if operator == "IN" else "a text"
        raise InvalidQuery(f"{what} {operator} takes {wanted}, not {value!r:.100}")
    if not is_storable("".join(values)) or sum(map(len, values)) > MAX_TEXT or len(values) > MAX_VALUES:
        raise InvalidQuery(
            f"{what} {operator} takes at most {MAX_TEXT} characters and {MAX_VALUES} values, no NUL, no half of a pair"
        )


def _check_page(where: tuple[Where | TagWhere, ...], order_by: tuple[Order, ...], limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidQuery(f"a page holds 1 to {MAX_PAGE} items, {limit} were asked for")
    if len(where) > MAX_CONDITIONS:
        raise InvalidQuery(f"a query has at most {MAX_CONDITIONS} conditions, this one {len(where)}")
    fields = [order.field for order in order_by]
    if len(set(fields)) < len(fields):
        raise InvalidQuery(f"an order names a field once, this one is {', '.join(fields)}")
