"""Keys, and the schemas of state records, as bytes.

A key is its typed parts one after another, each with a tag and a length, so that no two keys share bytes.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa

from mlray.errors import SchemaError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = {pa.int64(): int, pa.string(): str}
_DIGITS = Context(prec=80)
"""More than any decimal of Arrow has: by default, Python rounds to 28."""
_INTEGER = b"i" + (8).to_bytes(4, "big")


def key_bytes(keys: pa.Table) -> list[bytes]:
    """One byte string per row; a table without columns gives the empty key."""
    columns = [column.to_pylist() for column in keys.columns]
    if not columns:
        return [b""] * keys.num_rows
    if len(columns) == 1 and keys.schema.field(0).type == pa.int64():
        return [_INTEGER + value.to_bytes(8, "big", signed=True) for value in columns[0]]
    return [b"".join(_part(value) for value in row) for row in zip(*columns, strict=True)]


def plain_keys(columns: Sequence[Sequence[Any]], types: Sequence[pa.DataType]) -> list[bytes | None]:
    """Per row of one column or more its key, None where a value is null; SchemaError where one is not of its type as
    it is.
    """
    for values, kind in zip(columns, types, strict=True):
        for other in set(map(type, values)) - {_EXACT.get(kind), type(None)}:
            raise SchemaError(f"{other.__name__} is not simply {kind}")
    parts = [_parts(values, kind) for values, kind in zip(columns, types, strict=True)]
    return parts[0] if len(parts) == 1 else [None if None in row else b"".join(row) for row in zip(*parts, strict=True)]


def schema_text(schema: pa.Schema) -> str:
    """A schema as text, for a state record."""
    return bytes(schema.remove_metadata().serialize()).hex()


def schema_from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))


def _parts(values: Sequence[Any], kind: pa.DataType) -> list[bytes | None]:
    if kind == pa.int64():
        return [None if value is None else _INTEGER + value.to_bytes(8, "big", signed=True) for value in values]
    return [None if value is None else _part(value) for value in values]


def _part(value: Any) -> bytes:
    tag, body = _tagged(value)
    return tag + len(body).to_bytes(4, "big") + body


def _tagged(value: Any) -> tuple[bytes, bytes]:
    if isinstance(value, bool):
        return b"b", bytes([value])
    if isinstance(value, int):
        return b"i", value.to_bytes(8, "big", signed=True)
    if isinstance(value, str):
        return b"s", value.encode()
    if isinstance(value, bytes):
        return b"x", value
    if isinstance(value, datetime):
        return b"t", ((value - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, "big", signed=True)
    if isinstance(value, date):
        return b"d", value.toordinal().to_bytes(4, "big")
    if isinstance(value, Decimal):
        return b"n", str(value.normalize(_DIGITS)).encode()
    raise SchemaError(f"a key of type {type(value).__name__} cannot be stored online")
