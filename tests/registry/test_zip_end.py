"""The end of a zip: one whose numbers contradict each other holds one thing for one reader, another for the next."""

import io
import re
import struct
import zipfile

import pytest
import torch

from mlray.registry.pickles import is_pickle

END, WIDE, LOCATOR = "<4s4H2LH", "<4sQ2H2L4Q", "<4sLQL"


def zipped(comment: bytes = b"", members: int = 1) -> bytes:
    """Of texts; the comments of its members make the directory longer."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        for number in range(members):
            member = zipfile.ZipInfo(f"words{number}.txt")
            member.comment = comment
            packed.writestr(member, b"hello")
    return written.getvalue()


PLAIN = zipped()


@pytest.fixture
def wide(monkeypatch) -> bytes:
    """A zip whose end says its numbers in 64 bits, as one of more than 65,535 members does."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    return zipped()


def changed(content: bytes, layout: str, at: int, number: int, by: int) -> bytes:
    """`by` more in one of the numbers of a record that begins at `at`, counted from the end where negative."""
    at %= len(content)
    told = list(struct.unpack_from(layout, content, at))
    told[number] += by
    return content[:at] + struct.pack(layout, *told) + content[at + struct.calcsize(layout) :]


def of_two_directories() -> bytes:
    """A file of torch's, and texts: the end tells the place of one directory and the length of the other."""
    written = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, written)
    front = written.getvalue()
    with zipfile.ZipFile(written) as packed:
        place, members = packed.start_dir, len(packed.infolist())
    texts = bytearray(zipped(bytes(len(front) - place), members))
    directory = texts.index(b"PK\x01\x02")
    for entry in re.finditer(b"PK\x01\x02", texts):
        (local,) = struct.unpack_from("<L", texts, entry.start() + 42)
        struct.pack_into("<L", texts, entry.start() + 42, local + place - directory)  # Python moves it by the rest
    told = (0, 0, members, members, len(texts) - directory - 22, place, 0)
    return front + texts[:-22] + struct.pack(END, b"PK\x05\x06", *told)


def test_what_torch_and_python_read_of_one_file_is_not_the_same_and_it_counts_as_a_pickle():
    content = of_two_directories()

    assert zipfile.ZipFile(io.BytesIO(content)).read("words0.txt") == b"hello"
    assert torch.load(io.BytesIO(content), weights_only=True)["weight"].tolist() == [0, 0, 0]
    assert is_pickle("w", io.BytesIO(content))


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("by", [1, 2])
def test_a_number_of_the_end_that_is_not_so_makes_it_a_pickle(number, by):
    assert is_pickle("w", io.BytesIO(changed(PLAIN, END, -22, number, by)))


@pytest.mark.parametrize(("layout", "at", "number"), [
    *((WIDE, -98, number) for number in (1, *range(4, 10))), *((LOCATOR, -42, number) for number in (1, 2, 3)),
])  # fmt: skip
def test_a_number_in_64_bits_that_is_not_so_makes_it_a_pickle(wide, layout, at, number):
    assert is_pickle("w", io.BytesIO(changed(wide, layout, at, number, 2)))


def test_32_bits_that_say_another_number_than_64_make_it_a_pickle(wide):
    assert is_pickle("w", io.BytesIO(changed(wide, END, -22, 3, -1)))


def test_an_end_in_the_comment_of_an_end_makes_it_a_pickle():
    both = zipped(), zipped(comment=b"longer")
    second = both[1][:-22] + changed(both[1], END, -22, 6, len(both[0]))[-22:]
    first = changed(both[0], END, -22, 7, len(second))

    assert zipfile.ZipFile(io.BytesIO(first + second)).infolist()[0].comment == b"longer"
    assert is_pickle("w", io.BytesIO(first + second))


def test_zips_as_they_should_be_are_none(wide):
    empty = b"PK\x05\x06" + bytes(18)
    with zipfile.ZipFile(remarked := io.BytesIO(PLAIN), "a") as packed:
        packed.comment = b"of May"

    for content in (PLAIN, wide, empty, remarked.getvalue(), b"#!/bin/sh\n" + PLAIN, PLAIN + b"\n"):
        assert not is_pickle("w", io.BytesIO(content))
