"""Whether bytes are a pickle, by its opcodes: the mark of a protocol, or an import, as far as they are followed.

What some reader takes is taken here: C's ends a number at a NUL and knows 0x1, torch reads strings of any encoding, and
whoever loads one pickle may load the one that follows it.
Whoever puts much before an import gains nothing: what goes on as opcodes for longer than anybody would look is TooFar,
and counts as a pickle.
"""

import codecs
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_BYTES, MOST_OPCODES = 64 << 20, 1_000_000
"""How far opcodes are followed, in all the files of one artifact with all that they pack."""
_PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
_IMPORTED = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_NUMBERS = frozenset({"INT", "LONG", "FLOAT", "GET", "PUT"})
"""Opcodes with a number as a line of text."""
_NUMBER = re.compile(rb"\s*[+-]?\.?(\d|inf|nan)[\w.+-]*\s*", re.IGNORECASE)
_QUOTED = re.compile(rb"(['\"]).*\1\n", re.DOTALL)


class TooFar(Exception):
    """There is more than anybody looks through."""


@dataclass
class Steps:
    """How many opcodes, and bytes of them, may still be followed."""

    left: int = MOST_OPCODES
    bytes: int = MOST_BYTES

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooFar


def starts_a_pickle(file: Any, size: int, steps: Steps) -> bool:
    """Whether the file of `size` bytes begins with the mark of a protocol and an opcode, or imports something by
    opcodes. TooFar where they go on.
    """
    begins, marked, named = True, False, False
    for opcode, argument in _opcodes(_Followed(file, size, steps)):
        if marked or (opcode == "STACK_GLOBAL" and named):
            return True
        if opcode in ("GLOBAL", "INST") and _IMPORTED.fullmatch(argument):
            return True
        marked = begins and opcode == "PROTO" and argument in _PROTOCOLS
        named = named or (isinstance(argument, str) and _NAME.fullmatch(argument) is not None)
        begins = opcode == "STOP"
        steps.take()
    return False


class _Followed:
    """A file of `size` bytes, of which no argument takes more than may be followed."""

    def __init__(self, file: Any, size: int, steps: Steps) -> None:
        self._file, self._size, self._steps = file, size, steps

    def read(self, count: int) -> bytes:
        if count > self._size:
            return b""  # as at the end: it is no pickle that asks for more than there is
        return self._took(self._file.read(self._room(count)))

    def readline(self) -> bytes:
        line = self._took(self._file.readline(self._steps.bytes + 1))
        self._room(0)
        return line

    def _took(self, some: bytes) -> bytes:
        self._steps.bytes -= len(some)
        return some

    def _room(self, count: int) -> int:
        if count > self._steps.bytes:
            raise TooFar
        return count


def _opcodes(file: _Followed) -> Iterator[tuple[str, Any]]:
    """The opcodes that the bytes begin with, up to what is none; one pickle may follow the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # text that is no pickle may hold odd escapes
        try:
            while (opcode := _OPCODES.get(file.read(1).decode("latin-1"))) is not None:
                yield opcode.name, _argument(opcode, file)
        except (ValueError, IndexError, UnicodeError):  # other bytes, or the end
            pass


def _argument(opcode: pickletools.OpcodeInfo, file: Any) -> Any:
    """What the opcode is given; of a number, None. ValueError for what no reader takes."""
    if opcode.name in _NUMBERS:
        line = file.readline()
        if b"\0" not in line and _NUMBER.fullmatch(line) is None:
            raise ValueError
        return None
    if opcode.name == "STRING":
        line = file.readline()
        if _QUOTED.fullmatch(line) is None:
            raise ValueError
        return codecs.escape_decode(line[1:-2])[0].decode("latin-1")
    return None if opcode.arg is None else opcode.arg.reader(file)
