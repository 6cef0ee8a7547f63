"""Whoever is killed while laying out, or lays out beside another: one correct copy, and no reader sees another."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from deltalake import DeltaTable
from test_layout import SOURCE, check, rows, write

from mlray.offline import layout
from mlray.offline.copies import folder

KEYS = ["user_id"]
ALL_WRITTEN = {"no copy": "2 of 2 parts", "full buckets": "1 of 1 parts", "changed": "1 of 1 parts"}
"""What is said last before the commit."""

WRITER = """
import json, os, sys
mine = os.fdopen(os.dup(1), "w", 1)
os.dup2(2, 1)  # Ray prints, too: warnings of a raylet come to every driver
import ray
import mlray as ml
from mlray.errors import Conflict
from mlray.offline import layout

layout.ROWS, layout.MOST_ROWS = 50, 200
address, lake, version, stop = json.loads(sys.argv[1])
source = ml.DeltaSource("events", path="events", timestamp="at")
ray.init(address=address, namespace="mlray", log_to_driver=False)

def note(text):
    if stop in text:
        print(text, file=mine)
        sys.stdin.readline()

try:
    print("mirrors", layout.refresh(lake, source, ["user_id"], version, note).source_version, file=mine)
except Conflict as error:
    print("conflict", error, file=mine)
"""


@dataclass(frozen=True)
class Writer:
    """A process that lays out; it stops where it was told to, until it is let go or killed."""

    process: "subprocess.Popen[str]"

    @property
    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        with self.process:
            self.process.kill()


@dataclass
class Lake:
    """A source in some state, and processes that lay it out."""

    address: str
    path: Path
    writers: list[Writer]

    def writer(self, stop: str, version: int | None = None) -> Writer:
        arguments = json.dumps([self.address, str(self.path), version, stop])
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", WRITER, arguments], env=os.environ, **pipes)
        self.writers.append(Writer(process))
        return self.writers[-1]

    def prepare(self, situation: str) -> None:
        """There is no copy; or one that must be topped up, by buckets that are full; or one to be laid out anew."""
        write(self.path, rows(Random(1), 100))
        if situation == "no copy":
            return
        self.check()
        for seed in range(7 if situation == "full buckets" else 0):
            write(self.path, rows(Random(seed), 20))
            self.check()
        write(self.path, rows(Random(9), 30), mode="overwrite" if situation == "changed" else "append")

    def check(self) -> None:
        """A copy of the newest version is there after a refresh, or before, and is right."""
        check(layout.refresh(str(self.path), SOURCE, KEYS), self.path, SOURCE)

    def before(self) -> None:
        """What a reader finds is right, whatever version it mirrors."""
        copy = layout.find(str(self.path), SOURCE, KEYS)
        if copy is not None:
            check(copy, self.path, SOURCE)

    def strays(self) -> set[str]:
        """The files of the copy that no version of it ever held."""
        root = Path(folder(str(self.path), SOURCE, KEYS))
        newest = DeltaTable(str(root)).version()
        held = {uri for version in range(newest + 1) for uri in DeltaTable(str(root), version=version).file_uris()}
        return {str(path) for path in root.glob("*/*")} - held - {str(p) for p in root.glob("_delta_log/*")}


@pytest.fixture
def lake(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setattr(layout, "ROWS", 50)
    monkeypatch.setattr(layout, "MOST_ROWS", 200)
    made = Lake(ray_cluster, tmp_path, [])
    yield made
    for writer in made.writers:
        writer.kill()


@pytest.mark.parametrize(
    ("situation", "phase"),
    [
        ("no copy", "groups of files read"),
        ("no copy", "1 of 2 parts"),
        ("no copy", "2 of 2 parts"),
        ("full buckets", "1 of 1 parts"),
        ("changed", "1 of 1 parts"),
        ("changed", "committed"),
    ],
)
def test_one_that_is_killed_harms_no_reader_and_the_next_succeeds(situation: str, phase: str, lake: Lake) -> None:
    lake.prepare(situation)
    writer = lake.writer(phase)
    assert phase in writer.said
    writer.kill()
    lake.before()
    lake.check()
    assert lake.strays() == set()


@pytest.mark.parametrize("situation", ["no copy", "full buckets", "changed"])
def test_two_that_commit_at_once_leave_one_correct_copy(situation: str, lake: Lake) -> None:
    lake.prepare(situation)
    newest = DeltaTable(str(lake.path / "events")).version()
    both = [lake.writer(ALL_WRITTEN[situation]) for _ in range(2)]
    said = [writer.said for writer in both]
    assert all("parts" in one for one in said), said
    for writer in both:
        writer.let_go()
    assert [writer.said for writer in both] == [f"mirrors {newest}\n"] * 2
    lake.check()
    assert lake.strays() == set()


@pytest.mark.parametrize("situation", ["no copy", "full buckets", "changed"])
def test_one_that_is_overtaken_by_a_newer_version_says_so(situation: str, lake: Lake) -> None:
    lake.prepare(situation)
    slow = lake.writer(ALL_WRITTEN[situation], version=DeltaTable(str(lake.path / "events")).version())
    assert "parts" in slow.said
    write(lake.path, rows(Random(2), 40))
    lake.check()
    slow.let_go()
    assert "conflict" in slow.said
    lake.check()


def test_one_that_another_writer_of_the_source_overtakes_still_mirrors_its_version(lake: Lake) -> None:
    lake.prepare("no copy")
    slow = lake.writer("2 of 2 parts", version=0)
    assert "parts" in slow.said
    write(lake.path, rows(Random(2), 40))
    slow.let_go()
    assert slow.said == "mirrors 0\n"
    lake.before()
