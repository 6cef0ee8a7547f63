"""Events as bytes: a header, rows of fixed width, then the bytes of text and other long values, column by column.

    header   format, flags, id of the schema, number of rows, until (see `cells`), bytes of the tail, bytes of each
             long column
    row      one bit per column that says whether it has a value, then the cells, packed, little-endian;
             of a long value its length
    heaps    per long column its values one after another
    tail     what else belongs to the rows (see `tiles`)

Rows of equal width make many cells one array: a read joins what it found and looks at it as columns, without a loop
over rows. The schema itself lies in the state of the space; a value names it by an id.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.errors import SchemaError

FORMAT: Final = 2
IN_ORDER: Final = 1
"""Flag: the rows lie in the order of the contract, and each of them is the current version of its event."""

_FIXED: Final = struct.Struct("<BB4sIqI")
_LENGTH: Final = struct.Struct("<I")
_UNTIL_AND_TAIL: Final = 12
_LONGEST_HEAP: Final = 2**31 - 1
_FEW: Final = 6
"""Rows up to which they are unpacked one by one: an array costs more to make."""


class Header(NamedTuple):
    """flags: IN_ORDER or 0; rows: how many; until: see `cells`; tail: its bytes."""

    flags: int
    rows: int
    until: int
    tail: int = 0


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of many values, as columns."""

    flags: NDArray[Any]
    rows: NDArray[Any]
    until: NDArray[Any]
    tail: NDArray[Any]

    @classmethod
    def of(cls, headers: Sequence[Header]) -> "Headers":
        columns = np.array(headers, dtype=np.int64).reshape(len(headers), len(Header._fields))
        return cls(*columns.T)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Header:
        if i >= len(self):
            raise IndexError(i)
        return Header(int(self.flags[i]), int(self.rows[i]), int(self.until[i]), int(self.tail[i]))


@dataclass(frozen=True, slots=True)
class _Cell:
    """How a column lies in a row. code: of `struct` and of NumPy; long: the row holds the length of the value only."""

    type: pa.DataType
    code: str
    long: bool = False


class Layout:
    """The rows of one schema as bytes."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema: pa.Schema = schema.remove_metadata()
        self.id = blake2b(bytes(self.schema.serialize()), digest_size=4).digest()
        cells = [_cell(field.type) for field in self.schema]
        self._cells = cells
        self._long = [i for i, cell in enumerate(cells) if cell.long]
        self._decimals = [i for i, cell in enumerate(cells) if pa.types.is_decimal(cell.type)]
        self._flags = (len(cells) + 7) // 8
        self._row = struct.Struct("<" + "".join([f"{self._flags}s", *(cell.code for cell in cells)]))
        self._array = np.dtype(
            [("valid", "u1", (self._flags,)), *((f"c{i}", _numpy(cell.code)) for i, cell in enumerate(cells))]
        )
        head = [("format", "u1"), ("flags", "u1"), ("schema", "S4"), ("rows", "<u4"), ("until", "<i8"), ("tail", "<u4")]
        self.single = np.dtype([*head, ("row", self._array)])
        self.long = [cell.type for cell in cells if cell.long]
        """Types of the columns of which a row holds the length only."""
        self.codes = [cell.code for cell in cells]
        """Of the cells of a row, for `struct`: values as `plain` gives them, the bytes of decimals, or lengths."""
        self.alone = _FIXED.pack(FORMAT, IN_ORDER, self.id, 1, 0, 0)[:-_UNTIL_AND_TAIL]
        """How the header of a single row begins that lies in order, up to `until`."""
        self.full = bytes(sum(1 << b for b in range(8) if 8 * i + b < len(cells)) for i in range(self._flags))
        """The flags of a row in which every column has a value."""
        self._head = _FIXED.size + _LENGTH.size * len(self._long)

    def encode(self, events: pa.Table) -> "Encoded":
        """The rows, ready to be cut into cells. Columns are those of the schema, in its order."""
        rows = np.zeros(events.num_rows, dtype=self._array)
        heaps, ends = [], []
        for i, cell in enumerate(self._cells):
            array = events.column(i).combine_chunks()
            valid = array.is_valid().to_numpy(zero_copy_only=False)
            rows["valid"][:, i // 8] |= valid.astype(np.uint8) << (i % 8)
            if cell.long:
                lengths, data = _long(array, valid)
                rows[f"c{i}"] = lengths
                heaps.append(data)
                ends.append(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))
            else:
                rows[f"c{i}"] = _fixed(array, valid, cell)
        return Encoded(self, memoryview(rows.tobytes()), self._array.itemsize, heaps, ends)

    def header(self, value: bytes) -> Header:
        """SchemaError where the value is not of this schema."""
        if len(value) >= self._head:
            form, flags, schema, rows, until, tail = _FIXED.unpack_from(value)
            if form == FORMAT and schema == self.id and len(value) == self._head + self._size(value, rows) + tail:
                return Header(flags, rows, until, tail)
        raise self.damaged(value)

    def damaged(self, *values: bytes) -> SchemaError:
        """Says so of these values."""
        return SchemaError(
            f"a stored value of {sum(map(len, values))} bytes is not of columns {', '.join(self.schema.names)}; "
            "materialize the view again"
        )

    def decode(self, values: Sequence[bytes]) -> tuple[pa.Table, Headers]:
        """All rows of the values, one after another, and the header of each value."""
        headers, rows, heaps = self._alike(values) or self._each(values)
        full = bool(np.all(rows["valid"] == np.frombuffer(self.full, np.uint8)))
        try:
            columns = [self._column(i, rows, full, heaps.get(i, b"")) for i in range(len(self._cells))]
        except (ValueError, OSError) as error:  # of Arrow, about bytes that are not what they should be
            raise self.damaged(*values) from error
        if not columns:
            return pa.table({"": pa.nulls(len(rows))}).select([]), headers
        return pa.Table.from_arrays(columns, schema=self.schema), headers

    def _alike(self, values: Sequence[bytes]) -> tuple[Headers, NDArray[Any], dict[int, bytes]] | None:
        """Values of one row each, without long columns, as one array; None where there are others."""
        if self._long or set(map(len, values)) != {self._head + self._array.itemsize}:
            return None
        whole = np.frombuffer(b"".join(values), self.single)
        one = (whole["rows"] == 1) & (whole["tail"] == 0)
        if not (one & (whole["format"] == FORMAT) & (whole["schema"] == self.id)).all():
            return None
        return Headers(whole["flags"], whole["rows"], whole["until"], whole["tail"]), whole["row"], {}

    def _each(self, values: Sequence[bytes]) -> tuple[Headers, NDArray[Any], dict[int, bytes]]:
        """(headers; rows of all values; per long column their bytes)."""
        headers = [self.header(value) for value in values]
        width, head = self._array.itemsize, self._head
        ends = [head + width * header.rows for header in headers]
        joined = b"".join([value[head:end] for value, end in zip(values, ends, strict=True)])
        return Headers.of(headers), np.frombuffer(joined, dtype=self._array), self._heaps(values, ends)

    def plain(self, value: bytes) -> tuple[Header, list[list[Any]]]:
        """One value's columns as Python lists: None for null; decimals unscaled, times and dates as integers."""
        header = self.header(value)
        flags, columns = self._lists(value, header.rows)
        end = self._head + self._array.itemsize * header.rows
        for i, length in zip(self._long, self._lengths(value), strict=True):
            try:
                columns[i] = _cut(value[end : end + length], columns[i], self._cells[i].type)
            except (ValueError, OSError) as error:
                raise self.damaged(value) from error
            end += length
        for i in self._decimals:
            columns[i] = [digits_of(cell) for cell in columns[i]]
        if flags is not None:
            for i, column in enumerate(columns):
                columns[i] = [c if f[i // 8] >> i % 8 & 1 else None for c, f in zip(column, flags, strict=True)]
        return header, columns

    def _lists(self, value: bytes, rows: int) -> tuple[Sequence[Any] | None, list[list[Any]]]:
        """(the flags of each row, None where no cell is null; the cells as they lie)."""
        if rows == 1:
            flag, *cells = self._row.unpack_from(value, self._head)
            return (None if flag == self.full else (flag,)), [[cell] for cell in cells]
        if rows <= _FEW:
            found = list(self._row.iter_unpack(value[self._head : self._head + self._array.itemsize * rows]))
            columns = [list(column) for column in zip(*found, strict=True)] or [[] for _ in range(len(self._cells) + 1)]
            flags: Sequence[Any] = columns.pop(0)
            return (None if all(flag == self.full for flag in flags) else flags), columns
        array = np.frombuffer(value, self._array, rows, self._head)
        columns = [array[f"c{i}"].tolist() for i in range(len(self._cells))]
        valid = array["valid"]
        full = bool(np.all(valid == np.frombuffer(self.full, np.uint8)))
        return (None if full else valid.tolist()), columns

    def _size(self, value: bytes, rows: int) -> int:
        return self._array.itemsize * rows + sum(self._lengths(value))

    def _lengths(self, value: bytes) -> Sequence[int]:
        return struct.unpack_from(f"<{len(self._long)}I", value, _FIXED.size) if self._long else ()

    def _heaps(self, values: Sequence[bytes], ends: list[int]) -> dict[int, bytes]:
        """Per long column the bytes of all values; `ends`: where its heap begins in each, moved on to the next one."""
        found = {}
        lengths = [self._lengths(value) for value in values] if self._long else []
        for place, i in enumerate(self._long):
            parts = []
            for number, value in enumerate(values):
                end = ends[number] + lengths[number][place]
                parts.append(value[ends[number] : end])
                ends[number] = end
            found[i] = b"".join(parts)
        return found

    def _column(self, i: int, rows: NDArray[Any], full: bool, heap: bytes) -> pa.Array:
        """full: whether no cell of any column is null."""
        cell, count = self._cells[i], len(rows)
        valid = None if full else (rows["valid"][:, i // 8] >> (i % 8)) & 1
        nulls = None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        if pa.types.is_null(cell.type):
            return pa.nulls(count)
        data = rows[f"c{i}"].copy()
        if cell.long:
            return _long_column(cell.type, data, nulls, heap, np.ones(count, np.uint8) if valid is None else valid)
        if pa.types.is_boolean(cell.type):
            data = np.packbits(data, bitorder="little")
        return pa.Array.from_buffers(cell.type, count, [nulls, pa.py_buffer(data)])


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as bytes. heaps, ends: per long column its bytes, and where each row's value begins and ends."""

    layout: Layout
    rows: memoryview
    width: int
    heaps: list[memoryview]
    ends: list[NDArray[np.int64]]

    def cut(self, lo: int, hi: int, until: int, flags: int = 0, tail: bytes = b"") -> bytes:
        """The rows lo..hi - 1 as one value."""
        spans = [(int(ends[lo]), int(ends[hi])) for ends in self.ends]
        parts: list[bytes | memoryview] = [_FIXED.pack(FORMAT, flags, self.layout.id, hi - lo, until, len(tail))]
        parts += [_LENGTH.pack(last - first) for first, last in spans]
        parts.append(self.rows[self.width * lo : self.width * hi])
        parts += [heap[first:last] for heap, (first, last) in zip(self.heaps, spans, strict=True)]
        return b"".join([*parts, tail])

    def alone(self, rows: NDArray[np.int64], until: int, flags: NDArray[np.uint8]) -> dict[int, bytes]:
        """By row what `cut` gives for it by itself, without a tail; nothing where a column is long. flags: of each."""
        if self.heaps:
            return {}
        one = self.layout.single
        whole = np.zeros(len(rows), one)
        head = {"format": FORMAT, "flags": flags, "schema": self.layout.id, "rows": 1, "until": until}
        for name, value in head.items():
            whole[name] = value
        whole["row"] = np.frombuffer(self.rows, one["row"])[rows]
        together, size = whole.tobytes(), one.itemsize
        return {row: together[size * i : size * (i + 1)] for i, row in enumerate(rows.tolist())}


@lru_cache(maxsize=1024)
def layout_of(schema: pa.Schema) -> Layout:
    """The layout of a schema, made once."""
    return Layout(schema)


_CODES: Final = {
    pa.bool_(): "?", pa.int8(): "b", pa.int16(): "h", pa.int32(): "i", pa.int64(): "q", pa.uint8(): "B",
    pa.uint16(): "H", pa.uint32(): "I", pa.uint64(): "Q", pa.float16(): "e", pa.float32(): "f", pa.float64(): "d",
    pa.date32(): "i", pa.date64(): "q", pa.time32("s"): "i", pa.time32("ms"): "i", pa.null(): "?",
}  # fmt: skip


def _cell(kind: pa.DataType) -> _Cell:
    if kind in _CODES:
        return _Cell(kind, _CODES[kind])
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind) or pa.types.is_duration(kind):
        return _Cell(kind, "q")
    if pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
        return _Cell(kind, f"{kind.byte_width}s")
    return _Cell(kind, "I", long=True)


def _numpy(code: str) -> str:
    if code.endswith("s"):
        return f"V{code.removesuffix('s')}"
    return f"<{np.dtype(code).str[1:]}"


def _fixed(array: pa.Array, valid: NDArray[np.bool_], cell: _Cell) -> NDArray[Any]:
    """The cells as NumPy has them; zero where null, so that equal rows are equal bytes."""
    if pa.types.is_null(array.type):
        return valid
    if pa.types.is_boolean(array.type):
        flags: NDArray[Any] = array.fill_null(False).to_numpy(zero_copy_only=False)
        return flags
    kind = np.dtype(_numpy(cell.code))
    data = array.buffers()[1]
    if data is None:
        return np.zeros(len(array), kind)
    cells = np.frombuffer(data, kind, array.offset + len(array))[array.offset :]
    if valid.all():
        return cells
    cells = cells.copy()
    cells[~valid] = np.zeros((), kind)
    return cells


def _long(array: pa.Array, valid: NDArray[np.bool_]) -> tuple[NDArray[np.int64], memoryview]:
    """(length of each value, 0 for null; the bytes of all)."""
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        offsets = np.frombuffer(array.buffers()[1], np.int32, array.offset + len(array) + 1)[array.offset :]
        data = array.buffers()[2]
        lengths = np.diff(offsets).astype(np.int64)
        if not valid.all():
            parts = [value or b"" for value in array.cast(pa.binary()).to_pylist()]
            return np.array([len(part) for part in parts], dtype=np.int64), memoryview(b"".join(parts))
        whole = memoryview(data) if data is not None else memoryview(b"")
        return lengths, whole[int(offsets[0]) : int(offsets[-1])] if len(lengths) else memoryview(b"")
    parts = [_message(array.slice(i, 1)) if valid[i] else b"" for i in range(len(array))]
    return np.array([len(part) for part in parts], dtype=np.int64), memoryview(b"".join(parts))


def _long_column(
    kind: pa.DataType, lengths: NDArray[Any], nulls: pa.Buffer | None, heap: bytes, valid: NDArray[Any]
) -> pa.Array:
    ends = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    _check_heap(int(ends[-1]), heap)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        buffers = [nulls, pa.py_buffer(ends.astype(np.int32).tobytes()), pa.py_buffer(heap)]
        column = pa.Array.from_buffers(kind, len(lengths), buffers)
        column.validate(full=True)  # what is no UTF-8 is undefined behaviour in what comes after
        return column
    parts = [
        _value(heap[start:end], kind) if held else pa.nulls(1, kind)
        for (start, end), held in zip(pairwise(ends.tolist()), valid.tolist(), strict=True)
    ]
    return pa.concat_arrays(parts) if parts else pa.nulls(0, kind)


def _cut(heap: bytes, lengths: Sequence[int], kind: pa.DataType) -> list[Any]:
    """The values of a long column as Python objects."""
    _check_heap(sum(lengths), heap)
    pieces: Iterator[bytes] = (heap[start:end] for start, end in pairwise(accumulate(lengths, initial=0)))
    return list(map(piece_reader(kind), pieces))


def piece_reader(kind: pa.DataType) -> Callable[[bytes], Any]:
    """From the bytes of a value of a long column to the value; ValueError or OSError for what are none of it."""
    if pa.types.is_string(kind):
        return bytes.decode
    if pa.types.is_binary(kind):
        return bytes
    return lambda piece: _value(piece, kind)[0].as_py() if piece else None


def digits_of(cell: bytes) -> int:
    """A decimal as it lies, without its point."""
    return int.from_bytes(cell, "little", signed=True)


def _check_heap(needed: int, heap: bytes) -> None:
    """ValueError where the lengths of the values are not those of their bytes: Arrow would read beyond them."""
    if needed != len(heap) or needed > _LONGEST_HEAP:
        raise ValueError(f"values of {needed} bytes do not lie in {len(heap)}")


def _message(one: pa.Array) -> bytes:
    """A single list, struct or other value: an Arrow record batch without its schema, after a checksum, for Arrow
    ends the process over some that are damaged.
    """
    message = bytes(pa.record_batch([one], names=["value"]).serialize())
    return _LENGTH.pack(crc32(message)) + message


def _value(piece: bytes, kind: pa.DataType) -> pa.Array:
    message = piece[_LENGTH.size :]
    if piece[: _LENGTH.size] != _LENGTH.pack(crc32(message)):
        raise ValueError("a stored value is damaged")
    return pa.ipc.read_record_batch(pa.py_buffer(message), pa.schema([("value", kind)])).column(0)
