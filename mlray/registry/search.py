"""A query of versions or models, run in SQL, one page at a time.

A page starts after the last item of the one before (keyset), never at a count of items, so that what is registered in
between neither shifts nor doubles anything. A tag or an alias is a condition on another table: where few rows meet it
they are listed (`IN`), where many do the walk in order asks each version (`EXISTS`) and soon has a page. Neither
database can be relied upon to know which it is.
"""

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, false, func, not_, or_, true, tuple_
from sqlmodel import Session, col, select

from mlray.errors import InvalidQuery
from mlray.registry import lookup
from mlray.registry.canonical import canonical_json, sha256_text
from mlray.registry.labels import START
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.plain import is_number
from mlray.registry.query import ModelQuery, Page, TagWhere, VersionQuery, Where
from mlray.registry.tables import AliasRow, ModelRow, ModelTagRow, VersionRow, VersionTagRow
from mlray.registry.texts import is_storable

FEW = 1000
"""So many keys are listed; where there are more, each row is asked."""
Condition = ColumnElement[bool]
Query = VersionQuery | ModelQuery
Keys = dict[str, Any]
"""The columns that an order can name; the last ones make it complete."""

_OF_VERSION: Keys = {
    "created_at": VersionRow.created_at,
    "updated_at": VersionRow.updated_at,
    "name": VersionRow.model,
    "version": VersionRow.version,
}
_OF_MODEL: Keys = {"created_at": ModelRow.created_at, "updated_at": ModelRow.updated_at, "name": ModelRow.name}


def versions(session: Session, query: VersionQuery) -> Page[ModelVersion]:
    """A page of versions; InvalidQuery for the page token of another query."""
    conditions = [_of_version(session, one) for one in query.where]
    rows, token = _page(session, VersionRow, query, conditions, _OF_VERSION, ("name", "version"))
    return Page(items=tuple(lookup.versions(session, rows)), next_page_token=token)


def models(session: Session, query: ModelQuery) -> Page[RegisteredModel]:
    """A page of models; InvalidQuery for the page token of another query."""
    conditions = [_of_model(session, one) for one in query.where]
    rows, token = _page(session, ModelRow, query, conditions, _OF_MODEL, ("name",))
    return Page(items=tuple(lookup.models(session, rows)), next_page_token=token)


def latest(session: Session, names: Sequence[str]) -> list[ModelVersion]:
    """Of each of these models the newest version in each stage that one is in, by name and number."""
    numbers = select(VersionRow.model, func.max(VersionRow.version)).where(col(VersionRow.model).in_(names))
    newest = numbers.group_by(col(VersionRow.model), col(VersionRow.stage))
    here = tuple_(col(VersionRow.model), col(VersionRow.version)).in_(newest)
    rows = session.exec(select(VersionRow).where(here).order_by(col(VersionRow.model), col(VersionRow.version)))
    return list(lookup.versions(session, list(rows)))


def _page(
    session: Session, table: Any, query: Query, conditions: list[Condition], keys: Keys, ties: Sequence[str]
) -> tuple[list[Any], str | None]:
    order = [(keys[name], down) for name, down in _order(query, ties)]
    statement = select(table).where(*conditions)
    if query.page_token is not None:
        statement = statement.where(_after(order, _last_of(query, [column for column, _ in order])))
    by = [col(column).desc() if down else col(column).asc() for column, down in order]
    rows = list(session.exec(statement.order_by(*by).limit(query.limit + 1)))
    if len(rows) <= query.limit:
        return rows, None
    rows.pop()
    return rows, _token(query, [getattr(rows[-1], column.key) for column, _ in order])


def _order(query: Query, ties: Sequence[str]) -> list[tuple[str, bool]]:
    """The keys and whether they descend. One that a condition holds at a single value orders nothing, and would keep an
    index from being walked.
    """
    named = [(order.field, order.descending) for order in query.order_by]
    order = named + [(tie, bool(named) and named[-1][1]) for tie in ties if tie not in dict(named)]
    fixed = {one.field for one in query.where if isinstance(one, Where) and one.operator == "="}
    return [(name, down) for name, down in order if name not in fixed] or order[-1:]


def _after(order: list[tuple[Any, bool]], last: list[Any]) -> Condition:
    """Strictly behind `last` in the order. Where all keys have one direction an index takes them all at once; else the
    first is bounded by itself too.
    """
    if len({down for _, down in order}) == 1:
        there = tuple_(*(col(column) for column, _ in order))
        return there < tuple(last) if order[0][1] else there > tuple(last)
    (column, down), value = order[0], last[0]
    beyond: Condition = column < value if down else column > value
    from_there = column <= value if down else column >= value
    return and_(from_there, or_(beyond, and_(column == value, _after(order[1:], last[1:]))))


def _token(query: Query, last: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps([_mark(query), last]).encode()).decode()


def _last_of(query: Query, columns: Sequence[Any]) -> list[Any]:
    try:
        mark, last = json.loads(base64.b64decode(query.page_token or "", altchars=b"-_", validate=True))
        kinds = [type(value) for value in last]
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidQuery("this page token is none of this registry's; ask for the first page") from error
    whole = all(is_storable(one) if isinstance(one, str) else is_number(one) for one in last)
    if mark != _mark(query) or kinds != [column.type.python_type for column in columns] or not whole:
        raise InvalidQuery("this page token belongs to another query; ask for the first page of this one")
    return list(last)


def _mark(query: Query) -> str:
    """What conditions and order a token belongs to."""
    said = [[*map(str, vars(one).values())] for one in (*query.where, *query.order_by)]
    return sha256_text(canonical_json([type(query).__name__, said]))[:16]


def _of_version(session: Session, one: Where | TagWhere) -> Condition:
    row = (VersionRow.model, VersionRow.version)
    if isinstance(one, TagWhere):
        return _of_tag(session, one, VersionTagRow, row, (VersionTagRow.model, VersionTagRow.version))
    if one.field == "alias":
        there = (AliasRow.model, AliasRow.version)
        if one.operator == "!=":
            return not_(_asked(row, there, col(AliasRow.alias) == one.value))
        return _found(session, row, there, _compared(session, AliasRow.alias, one.operator, one.value))
    column = VersionRow.model if one.field == "name" else getattr(VersionRow, one.field)
    return _compared(session, column, one.operator, one.value)


def _of_model(session: Session, one: Where | TagWhere) -> Condition:
    if isinstance(one, TagWhere):
        return _of_tag(session, one, ModelTagRow, (ModelRow.name,), (ModelTagRow.model,))
    return _compared(session, ModelRow.name, one.operator, one.value)


def _of_tag(session: Session, one: TagWhere, table: Any, row: tuple[Any, ...], there: tuple[Any, ...]) -> Condition:
    key = col(table.key) == one.key
    meets = _compared(session, table.value, one.operator, one.value)
    if one.or_absent:
        return not_(_asked(row, there, and_(key, not_(meets))))
    start = col(table.start) == str(one.value)[:START] if one.operator == "=" else true()
    return _found(session, row, there, and_(key, start, meets))


def _found(session: Session, row: tuple[Any, ...], there: tuple[Any, ...], meets: Condition) -> Condition:
    """The row is among those that meet a condition in another table."""
    some = select(*there).where(meets)
    many = session.exec(select(func.count()).select_from(some.limit(FEW + 1).subquery())).one() > FEW
    return _asked(row, there, meets) if many else tuple_(*map(col, row)).in_(some)


def _asked(row: tuple[Any, ...], there: tuple[Any, ...], meets: Condition) -> Condition:
    return exists().where(*(mine == other for mine, other in zip(row, there, strict=True)), meets)


def _compared(session: Session, column: Any, operator: str, value: Any) -> Condition:
    if operator == "LIKE":
        return _like(session, column, value)
    if operator == "ILIKE":
        return _ilike(session, column, value)
    return _COMPARISONS[operator](col(column), value)


def _like(session: Session, column: Any, pattern: str) -> Condition:
    if session.get_bind().dialect.name == "sqlite":  # whose LIKE ignores case, while its GLOB does not
        return col(column).op("GLOB", is_comparison=True)(pattern.translate(_GLOB))
    return col(column).like(pattern.replace("\\", "\\\\"))


def _ilike(session: Session, column: Any, pattern: str) -> Condition:
    if session.get_bind().dialect.name == "sqlite":
        return col(column).like(pattern)
    return col(column).ilike(pattern.replace("\\", "\\\\"))


_GLOB = str.maketrans({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"})
_COMPARISONS: dict[str, Callable[[Any, Any], Condition]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "IN": lambda column, values: column.in_(values) if values else false(),
}
