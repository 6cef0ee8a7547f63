"""The end of a zip, by which readers find what it holds, and whether it leads all of them to the same.

It says where the directory lies, how long it is, and of how many members, in 32 bits, and once more in 64 where that is
too little. Readers differ in what they believe: Python goes back from the end by the length, torch to the place, and
who counts reads so many members. So a file can be made that holds one thing for each of them.

Layouts: APPNOTE.TXT of PKWARE, 4.3.14 to 4.3.16.
"""

import io
import re
import struct
from typing import Any, NamedTuple

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_WIDE = struct.Struct("<4sQ2H2L4Q")
_ENTRY_MAGIC, _END_MAGIC, _LOCATOR_MAGIC, _WIDE_MAGIC = b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"


class _Told(NamedTuple):
    """The numbers of an end, in the order in which they lie there."""

    disk: int
    directory_disk: int
    members_here: int
    members: int
    length: int
    place: int


_LONGEST_COMMENT = 0xFFFF
_ELSEWHERE = _Told(*[0xFFFF] * 4, *[0xFFFFFFFF] * 2)
"""What 32 bits say of a number that is told in 64."""


def leads_all_to_the_same(file: Any, packed: Any) -> bool:
    """Whether the file's end agrees with the directory that zipfile has read, as `packed`."""
    at = _only_end(file)
    if at is None:
        return False
    _, *numbers, _ = _read(file, at, _END)
    told, end = _Told(*numbers), at
    if (at_locator := at - _LOCATOR.size) >= 0 and _read(file, at_locator, _LOCATOR)[0] == _LOCATOR_MAGIC:
        end = at_locator - _WIDE.size
        wide = _told_in_64_bits(file, end)
        if wide is None or any(a not in (b, c) for a, b, c in zip(told, wide, _ELSEWHERE, strict=True)):
            return False
        told = wide
    members = len(packed.infolist())
    place = packed.start_dir if _is_directory(file, told.place) else told.place  # what is put before a zip moves it
    return told == _Told(0, 0, members, members, end - packed.start_dir, place)


def _only_end(file: Any) -> int | None:
    """Where the end begins: the last that there is, as most readers have it. None where others take an earlier one,
    since its comment goes on to the last byte.
    """
    size = file.seek(0, io.SEEK_END)
    first = max(size - _END.size - _LONGEST_COMMENT, 0)
    file.seek(first)
    tail = file.read(size - first)
    ends = [first + found.start() for found in re.finditer(re.escape(_END_MAGIC), tail)]
    reaching = [at for at in ends[:-1] if at + _END.size + _read(file, at, _END)[-1] == size]
    return None if reaching or not ends else ends[-1]


def _told_in_64_bits(file: Any, at: int) -> _Told | None:
    """What the end of 64 bits says, whose locator follows it and points at it; None where one of that is not so."""
    if at < 0:
        return None
    _, disk, place, disks = _read(file, at + _WIDE.size, _LOCATOR)
    magic, length, _, _, *numbers = _read(file, at, _WIDE)
    fits = (magic, length, disk, place) == (_WIDE_MAGIC, _WIDE.size - 12, 0, at) and disks in (0, 1)
    return _Told(*numbers) if fits else None


def _is_directory(file: Any, at: int) -> bool:
    file.seek(at)
    return bool(file.read(len(_ENTRY_MAGIC)) == _ENTRY_MAGIC)


def _read(file: Any, at: int, layout: struct.Struct) -> tuple[Any, ...]:
    file.seek(at)
    return layout.unpack(file.read(layout.size))
