"""Partials of aggregates as bytes: whole numbers of any size, doubles, fractions, and what is made of them.

A value is a tag and a body. A whole number is its length and its two's complement, least byte first; a fraction two
such numbers; a tuple, a set and a count of occurrences begin with their length. Sets are sorted, so that equal values
are equal bytes.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Final

from mlray.aggregation.algebra import Moments, Total
from mlray.errors import SchemaError

_DOUBLE: Final = struct.Struct("<d")
_LENGTH: Final = struct.Struct("<I")


def partial_bytes(partial: Any) -> bytes:
    """What `partial_of` reads."""
    for tag, kind, write, _ in _KINDS:
        if type(partial) is kind:
            return tag + write(partial)
    raise SchemaError(f"a partial of type {type(partial).__name__} cannot be stored online")


def partial_of(data: memoryview) -> tuple[Any, memoryview]:
    """The value at the beginning of the bytes, and what follows it."""
    tag = bytes(data[:1])
    for known, _, _, read in _KINDS:
        if tag == known:
            return read(data[1:])
    raise SchemaError(f"a stored partial begins with {tag!r}; materialize the view again")


def _whole(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    return _LENGTH.pack(size) + number.to_bytes(size, "little", signed=True)


def _whole_of(data: memoryview) -> tuple[int, memoryview]:
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return int.from_bytes(data[_LENGTH.size : end], "little", signed=True), data[end:]


def _double_of(data: memoryview) -> tuple[float, memoryview]:
    return _DOUBLE.unpack_from(data)[0], data[_DOUBLE.size :]


def _fraction_of(data: memoryview) -> tuple[Fraction, memoryview]:
    numerator, data = _whole_of(data)
    denominator, data = _whole_of(data)
    return Fraction(numerator, denominator), data


def _many(values: Sequence[Any]) -> bytes:
    return _LENGTH.pack(len(values)) + b"".join(map(partial_bytes, values))


def _many_of(data: memoryview) -> tuple[list[Any], memoryview]:
    count, data = _LENGTH.unpack_from(data)[0], data[_LENGTH.size :]
    found = []
    for _ in range(count):
        value, data = partial_of(data)
        found.append(value)
    return found, data


def _made(make: Callable[[list[Any]], Any]) -> Callable[[memoryview], tuple[Any, memoryview]]:
    def read(data: memoryview) -> tuple[Any, memoryview]:
        found, data = _many_of(data)
        return make(found), data

    return read


def _fields(*names: str) -> Callable[[Any], bytes]:
    return lambda value: _many([getattr(value, name) for name in names])


def _counted(pairs: Iterable[tuple[Any, int]]) -> Counter[Any]:
    return Counter(dict(pairs))


_KINDS: Final[Sequence[tuple[bytes, type, Callable[[Any], bytes], Callable[[memoryview], tuple[Any, memoryview]]]]] = (
    (b"i", int, _whole, _whole_of),
    (b"d", float, _DOUBLE.pack, _double_of),
    (b"f", Fraction, lambda f: _whole(f.numerator) + _whole(f.denominator), _fraction_of),
    (b"t", tuple, _many, _made(tuple)),
    (b"s", frozenset, lambda s: _many(sorted(s)), _made(frozenset)),
    (b"c", Counter, lambda c: _many(sorted(c.items())), _made(_counted)),
    (b"T", Total, _fields("count", "sum", "up", "down"), _made(lambda v: Total(*v))),
    (b"M", Moments, _fields("count", "sum", "squares", "infinite"), _made(lambda v: Moments(*v))),
)
