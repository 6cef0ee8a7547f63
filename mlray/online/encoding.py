"""Keys and events as bytes.

A key is its typed parts one after another, each with a tag and a length, so that no two keys share bytes. Events are an
Arrow IPC record batch without schema: the space they lie in belongs to one content hash of a view and names its schema.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from mlray.errors import SchemaError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def key_bytes(keys: pa.Table) -> list[bytes]:
    """One byte string per row; a table without columns gives the empty key."""
    columns = [column.to_pylist() for column in keys.columns]
    if not columns:
        return [b""] * keys.num_rows
    return [b"".join(_part(value) for value in row) for row in zip(*columns, strict=True)]


def batch_bytes(rows: pa.Table) -> bytes:
    """The rows as one record batch."""
    batches = rows.combine_chunks().to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
    return bytes(batch.serialize())


def rows_of(value: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """What `batch_bytes` wrote; SchemaError where the bytes are not a batch of this schema."""
    try:
        batch = pa.ipc.read_record_batch(pa.py_buffer(value), schema)
        batch.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise SchemaError(
            f"a stored value is not a batch of {schema.names}: {error}; materialize the view again"
        ) from error
    return batch


def schema_text(schema: pa.Schema) -> str:
    """A schema as text, for a state record."""
    return bytes(schema.remove_metadata().serialize()).hex()


def schema_from_text(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))


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
        return b"n", str(value.normalize()).encode()
    raise SchemaError(f"a key of type {type(value).__name__} cannot be stored online")
