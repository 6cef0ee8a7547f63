"""A query of versions or models, run in SQL, one page at a time.

A page starts after the last item of the one before (keyset), never at a count of items, so that what is registered in
between neither shifts nor doubles anything. There are two ways to a page, and neither database can be relied upon to
know the better one: where few rows meet a condition they are found by it and sorted; else an index is walked in the
order asked for, and each row is asked, until there is a page.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, and_, func, true, tuple_
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from mlray.errors import InvalidQuery
from mlray.registry import lookup
from mlray.registry.canonical import canonical_json, sha256_text
from mlray.registry.conditions import Asked, Condition, asked_of_each, few, hidden, of_model, of_version
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.plain import is_number
from mlray.registry.policy import STAGES
from mlray.registry.query import ModelQuery, Page, VersionQuery, Where
from mlray.registry.tables import ModelRow, VersionRow
from mlray.registry.texts import is_storable

Query = VersionQuery | ModelQuery


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What is searched. columns: what an order can name; ties: those that make it complete, the primary key.

    leads: a field held at one value, to the orders that an index of it goes on with.
    """

    table: Any
    columns: Mapping[str, Any]
    ties: tuple[str, ...]
    leads: Mapping[str, tuple[str, ...]]


_VERSIONS = _Kind(
    table=VersionRow,
    columns={
        "created_at": VersionRow.created_at,
        "updated_at": VersionRow.updated_at,
        "name": VersionRow.model,
        "version": VersionRow.version,
    },
    ties=("name", "version"),
    leads={"name": ("version", "created_at", "updated_at"), "stage": ("name",), "service": ("name",)},
)
_MODELS = _Kind(
    table=ModelRow,
    columns={"created_at": ModelRow.created_at, "updated_at": ModelRow.updated_at, "name": ModelRow.name},
    ties=("name",),
    leads={},
)
_INSTANTS = ("created_at", "updated_at")
_INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of the order: the column, or what hides it from every index."""

    name: str
    column: Any
    descends: bool


def versions(session: Session, query: VersionQuery) -> Page[ModelVersion]:
    """A page of versions; InvalidQuery for the page token of another query."""
    conditions = [of_version(_dialect(session), one) for one in query.where]
    rows, token = _page(session, _VERSIONS, query, conditions)
    return Page(items=tuple(lookup.versions(session, rows)), next_page_token=token)


def models(session: Session, query: ModelQuery) -> Page[RegisteredModel]:
    """A page of models; InvalidQuery for the page token of another query."""
    conditions = [of_model(_dialect(session), one) for one in query.where]
    rows, token = _page(session, _MODELS, query, conditions)
    return Page(items=tuple(lookup.models(session, rows)), next_page_token=token)


def latest(session: Session, names: Sequence[str]) -> list[ModelVersion]:
    """Of each of these models the newest version in each stage that one is in, by name and number."""
    columns: list[Any] = [ModelRow.name, *(_newest(stage) for stage in STAGES)]
    found = session.execute(select_columns(*columns).where(col(ModelRow.name).in_(names)))
    keys = sorted((name, number) for name, *numbers in found for number in numbers if number is not None)
    return lookup.versions(session, lookup.version_rows(session, keys))


def _newest(stage: str) -> Any:
    here = (col(VersionRow.stage) == stage, col(VersionRow.model) == ModelRow.name)
    return select_columns(func.max(VersionRow.version)).where(*here).correlate(ModelRow).scalar_subquery()


def _page(session: Session, kind: _Kind, query: Query, conditions: list[Asked]) -> tuple[list[Any], str | None]:
    order = _order(kind, query)
    last = None if query.page_token is None else _last_of(query, [kind.columns[key.name] for key in order])
    where, order = _planned(session, kind, conditions, order)
    rows: list[Any] = []
    for start in _starts(order, last):
        wanted = query.limit + 1 - len(rows)
        rows += session.exec(_statement(kind, [*where, start], order, wanted)) if wanted else ()
    if len(rows) <= query.limit:
        return rows, None
    rows.pop()
    return rows, _token(query, [getattr(rows[-1], kind.columns[key.name].key) for key in order])


def _statement(kind: _Kind, where: Sequence[Condition], order: Sequence[_Key], limit: int) -> Any:
    """The rows of a page. Their keys are found first, which an index alone may hold; only then the rows are read."""
    found = _keys(kind, where).order_by(*_by(order)).limit(limit).subquery()
    same = [col(mine) == found.c[mine.key] for mine in (kind.columns[name] for name in kind.ties)]
    return select(kind.table).join(found, and_(*same)).order_by(*_by(order))


def _keys(kind: _Kind, where: Sequence[Condition]) -> Any:
    return select_columns(*(kind.columns[name] for name in kind.ties)).where(*where)


def _by(order: Sequence[_Key]) -> list[ColumnElement[Any]]:
    return [key.column.desc() if key.descends else key.column.asc() for key in order]


def _order(kind: _Kind, query: Query) -> list[_Key]:
    """The keys of the order. One that a condition holds at a single value orders nothing, and would keep an index from
    being walked.
    """
    named = [(order.field, order.descending) for order in query.order_by]
    order = named + [(tie, bool(named) and named[-1][1]) for tie in kind.ties if tie not in dict(named)]
    fixed = {one.field for one in query.where if isinstance(one, Where) and one.operator == "="}
    kept = [(name, down) for name, down in order if name not in fixed] or order[-1:]
    return [_Key(name, col(kind.columns[name]), down) for name, down in kept]


def _planned(
    session: Session, kind: _Kind, conditions: list[Asked], order: list[_Key]
) -> tuple[list[Condition], list[_Key]]:
    """Conditions and order such that only the better way is open: by the first condition that few rows meet; along the
    order, with what its index begins with; or, where few rows meet all of them, through the table, which PostgreSQL
    reads several times as fast as rows one by one.
    """
    leading = [one for one in conditions if _leads(kind, one, order)]
    some = next((one for one in conditions if one not in leading and one.few(session)), None)
    by_index = leading if some is None else [some]
    rest = [one for one in conditions if one not in by_index]
    where = [*(one.found for one in by_index if one.found is not None), *asked_of_each(rest)]
    scanned = some is None and bool(rest) and _dialect(session) != "sqlite" and few(session, _keys(kind, where))
    if some is not None or scanned:
        order = [_Key(key.name, hidden(key.column), key.descends) for key in order]
    return where, order


def _leads(kind: _Kind, one: Asked, order: list[_Key]) -> bool:
    """Whether an index begins with the condition's field and goes on in the order."""
    if one.found is None or one.field is None:
        return False
    first = order[0].name
    if one.field != "name" and first == "name" and not _is_uniform(order):
        return False  # an index of stages goes on in one direction only
    return one.field == first or (one.equals and first in kind.leads.get(one.field, ()))


def _is_uniform(order: Sequence[_Key]) -> bool:
    return len({key.descends for key in order}) == 1


def _starts(order: list[_Key], last: list[Any] | None) -> Iterator[Condition]:
    """What lies strictly behind `last`, in parts that follow each other: where all keys have one direction an index
    takes them at once; else first what differs in the last key only, then in the last but one, and so on.
    """
    if last is None:
        yield true()
    elif _is_uniform(order):
        there = tuple_(*(key.column for key in order))
        yield there < tuple(last) if order[0].descends else there > tuple(last)
    else:
        # Few rows have the same instant, so no other index is to be taken for those.
        tied = order[0].name in _INSTANTS
        columns = [hidden(key.column) if at and tied else key.column for at, key in enumerate(order)]
        for at in reversed(range(len(order))):
            same = [column == value for column, value in zip(columns[:at], last, strict=False)]
            beyond = columns[at] < last[at] if order[at].descends else columns[at] > last[at]
            yield and_(*same, beyond)


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def _token(query: Query, last: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps([_mark(query), last]).encode()).decode()


def _last_of(query: Query, columns: Sequence[Any]) -> list[Any]:
    try:
        mark, last = json.loads(base64.b64decode(query.page_token or "", altchars=b"-_", validate=True))
        fits = len(last) == len(columns) and all(map(_fits, last, columns))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidQuery("this page token is none of this registry's; ask for the first page") from error
    if mark != _mark(query) or not fits:
        raise InvalidQuery("this page token belongs to another query; ask for the first page of this one")
    return list(last)


def _fits(value: object, column: Any) -> bool:
    """Whether the column could hold it: PostgreSQL refuses to compare with what it could not."""
    if type(value) is not column.type.python_type:
        return False
    if isinstance(value, str):
        return is_storable(value)
    return is_number(value) if isinstance(column.type, BigInteger) else value in _INT32


def _mark(query: Query) -> str:
    """What conditions and order a token belongs to."""
    said = [[*map(str, vars(one).values())] for one in (*query.where, *query.order_by)]
    return sha256_text(canonical_json([type(query).__name__, said]))[:16]
