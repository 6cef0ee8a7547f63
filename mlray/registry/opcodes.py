"""Whether bytes are a pickle, by its opcodes: the mark of a protocol, or an import, as far as they are followed.

Whoever puts much before an import gains nothing: what goes on as opcodes for longer than anybody would look is TooFar,
and counts as a pickle.
"""

import pickle
import pickletools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MOST_BYTES, MOST_OPCODES = 64 << 20, 1_000_000
"""How far opcodes are followed, in one file with all that it packs."""
_PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
_IMPORTED = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


class TooFar(Exception):
    """There is more than anybody looks through."""


@dataclass
class Steps:
    """How many opcodes may still be followed."""

    left: int = MOST_OPCODES

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooFar


def starts_a_pickle(file: Any, size: int, steps: Steps) -> bool:
    """Whether the file of `size` bytes begins with the mark of a protocol and an opcode, or imports something by
    opcodes. TooFar where they go on.
    """
    first: tuple[str, Any] = ("", None)
    names = 0
    for number, (opcode, argument) in enumerate(_opcodes(_Followed(file, size))):
        if number == 1 and first[0] == "PROTO" and first[1] in _PROTOCOLS:
            return True
        first = (opcode, argument) if number == 0 else first
        names += isinstance(argument, str) and _NAME.fullmatch(argument) is not None
        if opcode in ("GLOBAL", "INST") and _IMPORTED.fullmatch(argument):
            return True
        if opcode == "STACK_GLOBAL" and names >= 2:
            return True
        steps.take()
    return False


class _Followed:
    """A file of `size` bytes for `genops`, which takes an argument whole: none of more bytes than are followed."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size, self._left = file, size, MOST_BYTES

    def read(self, count: int) -> bytes:
        if count > self._size:
            return b""  # as at the end: it is no pickle that asks for more than there is
        return self._took(self._file.read(self._room(count)))

    def readline(self) -> bytes:
        line = self._took(self._file.readline(self._left + 1))
        self._room(0)
        return line

    def _took(self, some: bytes) -> bytes:
        self._left -= len(some)
        return some

    def _room(self, count: int) -> int:
        if count > self._left:
            raise TooFar
        return count


def _opcodes(file: _Followed) -> Iterator[tuple[str, Any]]:
    """The opcodes that the bytes begin with, up to what is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # text that is no pickle may hold odd escapes
        opcodes: Any = file  # genops asks for `read` and `readline` only
        try:
            for opcode, argument, _ in pickletools.genops(opcodes):
                yield opcode.name, argument
        except (ValueError, IndexError, UnicodeError):  # other bytes, or the end
            pass
