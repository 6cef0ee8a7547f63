"""Latest values as they lie: of keys whose cells are of one row each, which is unpacked as a whole.

    version  8 bytes, of the record
    head    10 bytes: format, flags, id of the schema, one row
    until    8 bytes
    tail     4 bytes: none
    lengths  4 bytes per text, list or other long value
    valid    a bit per column: it has a value
    columns  of fixed width; of a long value its length
    values   the long ones, one after another

Head and tail are known beforehand, so two comparisons of bytes say that a record lies so.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise, starmap
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from mlray.aggregation.window import Times
from mlray.features.rows import TS
from mlray.online.codec import Layout, digits_of, piece_reader
from mlray.online.store import VERSION

_INTEGER = struct.Struct("<q")
_TAIL = 4


class Latest:
    """The columns `names` of records of one row. A record is a version and a value, as the store has it."""

    def __init__(self, layout: Layout, names: Sequence[str]) -> None:
        codes = dict(zip(layout.schema.names, layout.codes, strict=True))
        kinds = dict(zip(layout.schema.names, layout.schema.types, strict=True))
        self._layout, self._head, self._tail, self._full = layout, layout.alone, bytes(_TAIL), layout.full
        self._lengths = struct.Struct(f"<{len(layout.long)}I")
        parts = accumulate([VERSION.size, len(self._head), _INTEGER.size, _TAIL, self._lengths.size, len(self._full)])
        self._head_at, self._until_at, self._tail_at, self._lengths_at, self._valid_at = starmap(slice, pairwise(parts))
        sizes = [struct.calcsize(f"<{code}") for code in codes.values()]
        self._at = dict(zip(codes, accumulate(sizes, initial=self._valid_at.stop), strict=False))
        cells = [code if name in names else f"{size}x" for size, (name, code) in zip(sizes, codes.items(), strict=True)]
        self._values = struct.Struct(f"<{self._valid_at.stop}x{''.join(cells)}")
        bits = {name: (i // 8, 1 << i % 8) for i, name in enumerate(codes)}
        self._timed, self._bits = bits[TS], [bit for name, bit in bits.items() if name in names]
        self._blank, self._nothing = bytes(self._values.size), [None] * len(names)
        lie = [name for name in codes if name in names]
        long = [name for name, kind in kinds.items() if kind in layout.long]
        self._long = [(lie.index(n) if n in names else None, piece_reader(kinds[n])) for n in long]
        """Per long column its place among the columns that are read, and what makes its values of bytes."""
        self._decimals = [lie.index(n) for n in names if pa.types.is_decimal(kinds[n])]
        self.even = not long
        self._picked = None if lie == list(names) else itemgetter(*map(lie.index, names))

    def time(self, record: bytes) -> int | None:
        """Of the row; None where the record lies otherwise."""
        if len(record) < len(self._blank) or record[self._head_at] != self._head:
            return None
        if len(record) != len(self._blank) + sum(self._lengths.unpack_from(record, self._lengths_at.start)):
            return None
        valid = record[self._valid_at]
        if record[self._tail_at] != self._tail or not valid[self._timed[0]] & self._timed[1]:
            return None
        return self.integer(record, TS)

    def integer(self, record: bytes, name: str) -> int:
        """The cell of an int64 column."""
        return int(_INTEGER.unpack_from(record, self._at[name])[0])

    def until(self, record: bytes) -> int:
        return int(_INTEGER.unpack_from(record, self._until_at.start)[0])

    def values(self, record: bytes) -> Sequence[Any]:
        values, valid = self._values.unpack_from(record), record[self._valid_at]
        if self._long or self._decimals:
            values = self._whole(values, record)
        if valid != self._full:
            values = self._without(values, valid)
        return values if self._picked is None else self._picked(values)

    def one(self, record: bytes, start: int, end: int) -> Sequence[Any] | None:
        """The values of a row with start <= time < end, of another one nulls; None where the record lies otherwise."""
        time = self.time(record)
        if time is None:
            return None
        return self.values(record) if start <= time < end else self._nothing

    def many(self, records: list[bytes], start: int | Times, end: int | Times) -> list[Sequence[Any] | None]:
        """`one` of each, where there are no long columns (`even`); start, end: of all, or of each."""
        size = len(self._blank)
        if set(map(len, records)) != {size}:
            records = [record if len(record) == size else self._blank for record in records]
        joined = b"".join(records)
        grid = np.frombuffer(joined, np.uint8).reshape(-1, size)
        lie = (grid[:, self._head_at] == np.frombuffer(self._head, np.uint8)).all(axis=1)
        lie &= (grid[:, self._tail_at] == 0).all(axis=1)
        valid, rows = grid[:, self._valid_at], list(self._values.iter_unpack(joined))
        if self._decimals:
            rows = [self._whole(row, b"") for row in rows]
        for i in np.flatnonzero((valid != np.frombuffer(self._full, np.uint8)).any(axis=1)).tolist():
            lie[i] &= bool(valid[i, self._timed[0]] & self._timed[1])
            rows[i] = self._without(rows[i], valid[i].tobytes())
        times = np.ndarray(len(records), "<i8", joined, self._at[TS], size)
        values: list[Sequence[Any] | None] = list(rows if self._picked is None else map(self._picked, rows))
        for i in np.flatnonzero(~(lie & (times >= start) & (times < end))).tolist():
            values[i] = self._nothing if lie[i] else None
        return values

    def _whole(self, values: Sequence[Any], record: bytes) -> tuple[Any, ...]:
        """The values, those of which the row holds the digits or the length only in their place."""
        out, first = list(values), len(self._blank)
        for decimal in self._decimals:
            out[decimal] = digits_of(out[decimal])
        lengths = self._lengths.unpack_from(record, self._lengths_at.start) if self._long else ()
        try:
            for (place, read), length in zip(self._long, lengths, strict=True):
                piece, first = record[first : first + length], first + length
                if place is not None:
                    out[place] = read(piece)
        except (ValueError, OSError) as error:
            raise self._layout.damaged(record[VERSION.size :]) from error
        return tuple(out)

    def _without(self, values: Sequence[Any], valid: bytes) -> tuple[Any, ...]:
        """None for the values of those columns that have none."""
        return tuple([v if valid[at] & bit else None for v, (at, bit) in zip(values, self._bits, strict=True)])
