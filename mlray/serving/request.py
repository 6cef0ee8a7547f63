"""What a caller asks: from the bytes of a JSON body to rows and instants, or an error that names row, field and remedy.

    {"row": {...}}  or  {"rows": [{...}, ...]},  with  "at": "2026-01-31T12:00:00Z" or one per row,  "features": true

A row holds every request field and entity key of the service, each perhaps null, and nothing else. JSON has one kind of
number: 1.0 is the integer 1, and an integer does for a float. Text is no number, and true is none. Times are ISO 8601
with a zone. NaN and the infinities are not JSON; send null.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NoReturn

import pyarrow as pa

from mlray.aggregation.window import Instants
from mlray.errors import InvalidRequest, MlrayError, RequestTooLarge, SchemaError, TimeError, did_you_mean
from mlray.features.types import INSTANT, instants

KEYS = ("row", "rows", "at", "features")
EXAMPLE = '{"rows": [{...}], "at": "2026-01-31T12:00:00Z", "features": true}'

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FINER = re.compile(r"[.,]\d{7,}")
_INT64 = range(-(2**63), 2**63)
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """rows: one column per field; at: q per row; features: whether the vectors are wanted."""

    rows: pa.Table
    at: Instants
    features: bool


def parse(body: bytes, fields: Mapping[str, pa.DataType], *, now: int, allow_at: bool, max_rows: int) -> Asked:
    """The request in `body`. fields: what a row consists of; now: microseconds UTC, q where the request names none."""
    asked = read_object(body)
    rows = _rows(asked, max_rows)
    features = asked.get("features", False)
    if not isinstance(features, bool):
        raise InvalidRequest(f"features={_shown(features)}; it must be true or false")
    times = _times(asked.get("at"), len(rows), now, allow_at)
    return Asked(table(rows, fields), instants(pa.array(times, pa.int64()).cast(INSTANT), "at"), features)


def table(rows: Sequence[Any], fields: Mapping[str, pa.DataType]) -> pa.Table:
    """The rows in the fields' types. SchemaError names the first field that is unknown, missing or of another type."""
    for number, row in enumerate(rows):
        _check_names(number, row, fields)
    columns = {name: _column(rows, name, kind) for name, kind in fields.items()}
    return pa.table(columns) if columns else pa.table({"__row": pa.nulls(len(rows))})


def read_object(body: bytes, keys: Sequence[str] = KEYS, example: str = EXAMPLE) -> dict[str, Any]:
    """The JSON object in `body`; InvalidRequest where it is none, or has another key than `keys`."""
    try:
        asked = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        if isinstance(error, MlrayError):
            raise
        raise InvalidRequest(f"the body is not JSON ({error}); send {example}") from error
    if not isinstance(asked, dict):
        raise InvalidRequest(f"the body is {_shown(asked)}, not an object; send {example}")
    for key in asked:
        if key not in keys:
            hint = "; a single row goes under 'row'" if "row" in keys and not {"row", "rows"} & asked.keys() else ""
            raise InvalidRequest(f"the request has no {_shown(key)}{did_you_mean(key, keys)}{hint}")
    return asked


def _rows(asked: Mapping[str, Any], max_rows: int) -> Sequence[Any]:
    if ("row" in asked) == ("rows" in asked):
        got = "both" if "row" in asked else "neither"
        raise InvalidRequest(f"give either 'row' or 'rows', not {got}: {EXAMPLE}")
    return checked_rows([asked["row"]] if "row" in asked else asked["rows"], max_rows)


def checked_rows(rows: Any, max_rows: int) -> Sequence[Any]:
    """The rows where they are a list that is neither empty nor longer than `max_rows`."""
    if not isinstance(rows, list) or not rows:
        raise InvalidRequest(f"rows={_shown(rows)}; it must be a list of at least one object")
    if len(rows) > max_rows:
        raise RequestTooLarge(f"{len(rows)} rows in one request, at most {max_rows} are taken; send several requests")
    return rows


def _check_names(number: int, row: Any, fields: Mapping[str, pa.DataType]) -> None:
    if not isinstance(row, dict):
        raise SchemaError(f"row {number} is {_shown(row)}; it must be an object of fields")
    if row.keys() == fields.keys():
        return
    for name in row:
        if name not in fields:
            raise SchemaError(f"row {number}: there is no field {_shown(name)}{did_you_mean(name, fields)}")
    missing = [name for name in fields if name not in row]
    raise SchemaError(
        f"row {number}: field '{missing[0]}' is missing; a row has {', '.join(fields)}; send null where it is not known"
    )


def _column(rows: Sequence[Any], name: str, kind: pa.DataType) -> pa.Array:
    read, due = reader(name, kind)
    values = []
    for number, row in enumerate(rows):
        value = row[name]
        try:
            values.append(None if value is None else read(value))
        except (_Unfit, ValueError, OverflowError) as error:
            why = f" ({error})" if str(error) else ""
            raise SchemaError(f"row {number}: field '{name}' is {_shown(value)}, but {due} is due{why}") from error
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError):
        number = next(number for number, value in enumerate(values) if not _fits(value, kind))
        raise SchemaError(f"row {number}: field '{name}' is {_shown(rows[number][name])}, beyond {kind}") from None


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowInvalid, OverflowError):
        return False
    return True


class _Unfit(Exception):
    """A value of the wrong JSON type; its message is the remedy, if there is one to tell."""


Read = Callable[[Any], Any]


def reader(name: str, kind: pa.DataType) -> tuple[Read, str]:
    """The function from a JSON value to one of this Arrow type, and what it wants in words."""
    for holds, read, due in _READERS:
        if holds(kind):
            return read, due
    raise SchemaError(f"field '{name}' is {kind}, which JSON cannot carry; make it a number, text, bool or time")


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Unfit(_unquote(value))
    if value not in _INT64:
        raise _Unfit("it does not fit 64 bits")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unfit(_unquote(value))
    if not math.isfinite(number := float(value)):
        raise _Unfit("it is beyond the range of float64; send null where it is not known")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Unfit("put it in quotes" if isinstance(value, int | float) else "")
    value.encode()  # a lone surrogate is valid JSON but no text: UnicodeEncodeError, a ValueError
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("write true or false, without quotes")
    return value


def _moment(value: Any) -> int:
    return microseconds("the time", value)


def _day(value: Any) -> date:
    if not isinstance(value, str):
        raise _Unfit("for example '2026-01-31'")
    return date.fromisoformat(value)


_READERS: tuple[tuple[Callable[[pa.DataType], bool], Read, str], ...] = (
    (pa.types.is_integer, _integer, "an integer"),
    (pa.types.is_floating, _number, "a number"),
    (pa.types.is_string, _text, "text"),
    (pa.types.is_boolean, _truth, "true or false"),
    (pa.types.is_timestamp, _moment, "a time with its zone, such as '2026-01-31T12:00:00Z',"),
    (pa.types.is_date, _day, "a date, such as '2026-01-31',"),
)


def _times(at: Any, rows: int, now: int, allow_at: bool) -> list[int]:
    if at is None:
        return [now] * rows
    if not allow_at:
        raise TimeError(
            "this server answers as of now and takes no 'at'; leave it out, or serve with allow_at = true in [serving]"
        )
    if not isinstance(at, list):
        return [microseconds("at", at)] * rows
    if len(at) != rows:
        raise TimeError(f"at has {len(at)} instants for {rows} rows; give one, or one per row")
    return [microseconds(f"at[{number}]", moment) for number, moment in enumerate(at)]


def microseconds(name: str, moment: Any) -> int:
    """An ISO 8601 text with its zone, as microseconds UTC; TimeError where it is naive, finer or no time."""
    if not isinstance(moment, str):
        raise TimeError(f"{name}={_shown(moment)} is no time; write '2026-01-31T12:00:00Z'")
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError as error:
        raise TimeError(f"{name}={_shown(moment)} is no time ({error}); write '2026-01-31T12:00:00Z'") from error
    if parsed.tzinfo is None:
        raise TimeError(f"{name}={_shown(moment)} has no time zone; write 'Z' for UTC, or an offset: {moment[:40]}Z")
    if _FINER.search(moment):
        raise TimeError(f"{name}={_shown(moment)} is finer than a microsecond; give at most six digits")
    return (parsed - _EPOCH) // _MICROSECOND


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"{_shown(again)} stands twice in one object; give it once")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON; send null where a number is not known")


def _unquote(value: Any) -> str:
    return "send it without quotes" if isinstance(value, str) else ""


def _shown(value: Any) -> str:
    """The value as the caller wrote it, cut short, in characters that any encoding can carry."""
    text = json.dumps(value)
    text = text[1:-1] if isinstance(value, str) else text
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return f"'{text}'" if isinstance(value, str) else text
