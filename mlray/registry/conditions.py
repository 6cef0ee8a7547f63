"""The conditions of a query in SQL, each in two forms: one that finds its rows by an index, and one that is asked of a
row that is there already and that no index answers.

Databases choose an index by statistics, which SQLite does not keep and PostgreSQL does not have after an import; so
`search` chooses, by the form. An expression (`model || ''`, a CASE) hides a column from every index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, false, func, not_, select, true, tuple_
from sqlalchemy import String as Text
from sqlmodel import Session, col

from mlray.registry.labels import START
from mlray.registry.query import TagWhere, Where
from mlray.registry.tables import AliasRow, ModelRow, ModelTagRow, VersionRow, VersionTagRow

Condition = ColumnElement[bool]
FEW = 2000
"""So many rows are listed and sorted in a moment."""
_ANY = ("%", "_")


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A condition. found: finds its rows by an index; None where no index can. asked: is asked of each row.

    field: of the row, None for another table's; equals: holds the field at one value. rows: those that meet it, for
    a count.
    """

    asked: Condition
    found: Condition | None = None
    rows: Select[Any] | None = None
    field: str | None = None
    equals: bool = False

    def few(self, session: Session) -> bool:
        """Whether at most FEW rows meet it, and an index finds them."""
        return self.found is not None and self.rows is not None and few(session, self.rows)


def few(session: Session, rows: Select[Any]) -> bool:
    """Whether there are at most FEW of them; the count stops there."""
    counted = select(func.count()).select_from(rows.limit(FEW + 1).subquery())
    return bool(session.execute(counted).scalar_one() <= FEW)


def of_version(dialect: str, one: Where | TagWhere) -> Asked:
    row = (VersionRow.model, VersionRow.version)
    if isinstance(one, TagWhere):
        return _of_tag(dialect, one, VersionTagRow, row, (VersionTagRow.model, VersionTagRow.version))
    if one.field == "alias":
        there = (AliasRow.model, AliasRow.version)
        if one.operator == "!=":
            return Asked(asked=not_(_exists(row, there, col(AliasRow.alias) == one.value)))
        return _elsewhere(row, there, _compared(dialect, col(AliasRow.alias), one.operator, one.value))
    column = VersionRow.model if one.field == "name" else getattr(VersionRow, one.field)
    return _here(dialect, column, one)


def of_model(dialect: str, one: Where | TagWhere) -> Asked:
    if isinstance(one, TagWhere):
        return _of_tag(dialect, one, ModelTagRow, (ModelRow.name,), (ModelTagRow.model,))
    return _here(dialect, ModelRow.name, one)


def hidden(column: Any) -> Any:
    """The column's value as no index has it."""
    return column + ("" if isinstance(column.type, Text) else 0)


def asked_of_each(conditions: Sequence[Asked]) -> list[Condition]:
    """The conditions as they are asked of each row, in one CASE: no index answers it, and PostgreSQL takes it to hold
    for every second row. Of several comparisons without an index it would expect next to none, and sort.
    """
    cheap_first = [one.asked for one in sorted(conditions, key=lambda one: one.field is None)]
    return [case((and_(*cheap_first), true()), else_=false())] if conditions else []


def _here(dialect: str, column: Any, one: Where) -> Asked:
    asked = _compared(dialect, col(column), one.operator, one.value)
    if not _starts_somewhere(one):
        return Asked(asked=asked, field=one.field)
    rows = select(column).where(asked)
    return Asked(asked=asked, found=asked, rows=rows, field=one.field, equals=one.operator == "=")


def _starts_somewhere(one: Where) -> bool:
    """Whether the values that compare lie together in an index."""
    pattern = str(one.value)
    return one.operator not in ("!=", "ILIKE", "LIKE") or (one.operator == "LIKE" and not pattern.startswith(_ANY))


def _of_tag(dialect: str, one: TagWhere, table: Any, row: tuple[Any, ...], there: tuple[Any, ...]) -> Asked:
    key = col(table.key) == one.key
    meets = _compared(dialect, col(table.value), one.operator, one.value)
    if one.or_absent:
        return Asked(asked=not_(_exists(row, there, and_(key, not_(meets)))))
    start = col(table.start) == str(one.value)[:START] if one.operator == "=" else true()
    return _elsewhere(row, there, and_(key, start, meets))


def _elsewhere(row: tuple[Any, ...], there: tuple[Any, ...], meets: Condition) -> Asked:
    """The row is among those that meet a condition in another table. It is found where they are few: PostgreSQL, which
    would guess otherwise, hears of that by the limit.
    """
    some = select(*there).where(meets)
    found = tuple_(*map(col, row)).in_(some.limit(FEW + 1))
    return Asked(asked=_exists(row, there, meets), found=found, rows=some)


def _exists(row: tuple[Any, ...], there: tuple[Any, ...], meets: Condition) -> Condition:
    """One look-up for each row: with an OFFSET PostgreSQL makes no join of it, nor a table of all that meet it."""
    same = (mine == other for mine, other in zip(row, there, strict=True))
    return select(1).where(*same, meets).offset(0).exists()


def _compared(dialect: str, column: Any, operator: str, value: Any) -> Condition:
    if operator in ("LIKE", "ILIKE"):
        return _like(dialect, column, operator, value)
    return _COMPARISONS[operator](column, value)


def _like(dialect: str, column: Any, operator: str, pattern: str) -> Condition:
    found: Condition
    if dialect != "sqlite":
        escaped = pattern.replace("\\", "\\\\")
        found = column.like(escaped) if operator == "LIKE" else column.ilike(escaped)
    elif operator == "LIKE":  # SQLite's LIKE ignores case, while its GLOB does not
        found = column.op("GLOB", is_comparison=True)(pattern.translate(_GLOB))
    else:
        found = column.like(pattern)
    return found


_GLOB = str.maketrans({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"})
_COMPARISONS: Mapping[str, Callable[[Any, Any], Condition]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "IN": lambda column, values: column.in_(values) if values else false(),
}
