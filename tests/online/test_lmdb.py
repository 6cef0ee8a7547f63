"""What only a file can do: be shared by processes, grow, be killed, be full, be somebody else's."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from mlray.errors import StoreError
from mlray.online.lmdb import LmdbStore
from mlray.online.store import Cell, OnlineStore, open_store

SMALL_MAP = 1 << 20
KEYS = [b"%04d" % i for i in range(2000)]
WRITER = """
import itertools, os, sys
from mlray.online.store import Cell, open_store
store = open_store(f"lmdb://{sys.argv[1]}")
keys = [b"%04d" % i for i in range(2000)]
for version in itertools.count(1):
    value = b"%d" % version
    store.write("s", [Cell(key, b"", version, value * 200) for key in keys], state=value)
    print(version, flush=True)
"""
KILLED_HALF_WAY = """
import os, signal, sys
from mlray.online.lmdb import LmdbStore

def half(txn):
    cursor = txn.cursor()
    cursor.first()
    while cursor.next():
        if cursor.key().startswith(b"z"):
            txn.put(cursor.key(), cursor.value()[:8] + b"torn")
    os.kill(os.getpid(), signal.SIGKILL)

LmdbStore(sys.argv[1])._environment.write(half)
"""
FULL_DISK = """
import resource, sys
from mlray.errors import StoreError
from mlray.online.store import Cell, open_store
store = open_store(f"lmdb://{sys.argv[1]}")
store.write("s", [Cell(b"k", b"", 1, b"before")], state=b"before")
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    store.write("s", [Cell(b"%d" % i, b"", 2, b"x" * 4000) for i in range(1000)], state=b"after")
except StoreError as error:
    print(error)
store.write("s", [Cell(b"k", b"", 2, b"small")])
print(store.read([("s", [b"k", b"1"])]))
"""


FORKED = """
import os, sys
from mlray.errors import StoreError
from mlray.online.store import Cell, open_store
store = open_store(sys.argv[1])
store.write("s", [Cell(b"k", b"", 1, b"parent's")])
child = os.fork()
if child == 0:
    for call in (lambda: store.read([]), lambda: store.write("s", []), lambda: open_store(sys.argv[1])):
        try:
            call()
        except StoreError as error:
            print(error, flush=True)
    store.close()
    sys.exit()
os.waitpid(child, 0)
print(store.read([("s", [b"k"])])[0].cells[0][0].value.decode())
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def opened(path: Path, **options: int) -> Iterator[LmdbStore]:
    store = LmdbStore(str(path), **options)
    yield store
    store.close()


def cells(version: int, size: int) -> list[Cell]:
    return [Cell(key, b"", version, b"%d" % version + b"." * size) for key in KEYS]


def seen(store: OnlineStore, keys: Sequence[bytes] = KEYS) -> set[bytes]:
    """The different values of the keys: one, if the state is that of one write."""
    return {answer[0].value if answer else b"" for answer in store.read([("s", keys)])[0].cells}


# Growth


def test_a_full_map_grows_and_the_write_succeeds(tmp_path: Path) -> None:
    with opened(tmp_path / "store", first_map=SMALL_MAP) as store:
        for version in range(3):
            assert store.write("s", iter(cells(version, 1000 * version))) == len(KEYS)
        assert seen(store) == {b"2" + b"." * 2000}
        assert store.stats("s").cells == len(KEYS)


def test_readers_in_other_threads_go_on_while_the_map_grows(tmp_path: Path) -> None:
    with opened(tmp_path / "store", first_map=SMALL_MAP) as store:
        done, found = threading.Event(), list[set[bytes] | StoreError]()

        def read() -> None:
            while not done.is_set():
                try:
                    found.append(seen(store, KEYS[::100]))
                except StoreError as error:
                    found.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for version in range(4):
            store.write("s", cells(version, 1000 * version))
        done.set()
        for reader in readers:
            reader.join()
        assert [what for what in found if not isinstance(what, set) or len(what) != 1] == []


def test_a_reader_process_follows_a_map_that_another_process_has_grown(tmp_path: Path) -> None:
    with opened(tmp_path / "store", first_map=SMALL_MAP) as store:
        store.write("s", cells(1, 0))
        assert seen(store) == {b"1"}
        grown = run(
            "import sys; sys.path.insert(0, sys.argv[2]); from tests.online.test_lmdb import *\n"
            "with opened(Path(sys.argv[1])) as store: store.write('s', cells(2, 3000))",
            tmp_path / "store", Path(__file__).parents[2],
        )
        assert (grown.returncode, grown.stderr) == (0, "")
        assert seen(store) == {b"2" + b"." * 3000}
        assert store.write("s", cells(3, 10)) == len(KEYS)


# Processes


def test_reader_processes_see_what_a_writer_process_commits_and_nothing_torn(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with opened(path) as store, subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in map(str.strip, writer.stdout):
            found = seen(store)
            assert len(found) == 1
            assert int(store.state("s") or b"0") >= int(line)
            if int(line) == 5:
                writer.kill()


@pytest.mark.parametrize("commits", [1, 4])
def test_a_killed_writer_leaves_the_state_of_one_whole_write(tmp_path: Path, commits: int) -> None:
    path = tmp_path / "store"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < commits:
            pass
        writer.kill()
    with opened(path) as store:
        state = store.state("s") or b""
        assert int(state) >= commits
        assert seen(store) == {state * 200}
        assert store.write("s", cells(10**6, 0)) == len(KEYS)


def test_a_writer_killed_inside_its_transaction_leaves_the_old_state_and_no_lock(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.write("s", cells(1, 5000))
    assert run(KILLED_HALF_WAY, tmp_path / "store").returncode == -signal.SIGKILL
    with opened(tmp_path / "store") as store:
        assert seen(store) == {b"1" + b"." * 5000}
        assert store.write("s", cells(2, 0)) == len(KEYS)


def test_cells_of_a_new_space_fill_their_pages(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for space in ("s", "t"):
            for first in range(0, len(KEYS), 500):
                store.write(space, cells(1, 280)[first : first + 500], state=b"loaded")
    with lmdb.open(str(tmp_path), readonly=True) as environment, environment.begin() as txn:
        assert txn.stat()["leaf_pages"] * 4096 < 1.15 * 2 * len(KEYS) * 310


def test_a_drop_that_was_cut_short_is_finished_by_the_next_one(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as store:
        store.write("s", cells(1, 0))
        store.write("t", [Cell(b"k" * 500, b"", 1, b"")])
    with lmdb.open(str(tmp_path / "store")) as environment, environment.begin(write=True) as txn:
        names = [key for key, record in txn.cursor() if key.startswith(b"s") and record.endswith(b"s")]
        txn.put(b"x" + txn.pop(names[0])[:4], b"")
    with opened(tmp_path / "store") as store:
        assert (store.spaces(), seen(store)) == (["t"], {b""})
        store.drop("t")
    with lmdb.open(str(tmp_path / "store")) as environment:
        assert environment.stat()["entries"] == len(["format", "n"])


def test_a_fork_is_told_not_to_use_its_parents_store(tmp_path: Path) -> None:
    ended = run(FORKED, f"lmdb://{tmp_path}/store")
    assert ended.stderr == ""
    *child, parent = ended.stdout.splitlines()
    assert len(child) == 3
    assert all("is used in its fork" in line and "start the process by spawn" in line for line in child)
    assert parent == "parent's"


# Folders


def test_a_folder_removed_and_made_again_is_a_new_store(tmp_path: Path) -> None:
    old = open_store(f"lmdb://{tmp_path}/store")
    old.write("s", [Cell(b"k", b"", 1, b"old")])
    for file in (tmp_path / "store").iterdir():
        file.unlink()
    new = open_store(f"lmdb://{tmp_path}/store")
    assert new.spaces() == []
    new.close()
    old.close()


def test_paths_are_relative_to_the_working_directory_and_links_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    stores = [open_store(f"lmdb://{path}") for path in ("real/store", "link/store", f"{tmp_path}/real/store")]
    stores[0].write("s", cells(1, 0))
    assert [seen(store) for store in stores] == [{b"1"}] * 3
    for store in stores:
        store.close()


@pytest.mark.parametrize(("file", "content", "message"), [
    ("notes.txt", b"mine", "is no online store: the folder holds 'notes.txt'; name an empty folder"),
    ("data.mdb", b"mine" * 10_000, "is no online store: its data.mdb is not an LMDB file"),
])
def test_a_folder_that_is_no_store_is_refused_and_kept(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(StoreError, match=message):
        open_store(f"lmdb://{tmp_path}")
    assert (tmp_path / file).read_bytes() == content


@pytest.mark.parametrize("path", ["file", "file/below", "/proc/mlray/store"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot be opened: .*name a folder this process may write to"):
        open_store(f"lmdb://{tmp_path / path}")


@pytest.mark.parametrize(("key", "record", "message"), [
    (b"format", b"mlray online store 3", "has format 3, this mlray knows format 2; install a newer mlray"),
    (b"format", b"mlray online store 1", "has format 1, this mlray knows format 2; install the older mlray"),
    (b"format", b"mlray online store ?", "another program's LMDB file"),
    (b"anything", b"else", "another program's LMDB file"),
])
def test_a_file_of_another_format_is_refused_and_kept(tmp_path: Path, key: bytes, record: bytes, message: str) -> None:
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as txn:
        txn.put(key, record)
    for _ in range(2):
        with pytest.raises(StoreError, match=message):
            open_store(f"lmdb://{tmp_path}")
    with lmdb.open(str(tmp_path)) as environment, environment.begin() as txn:
        assert list(txn.cursor()) == [(key, record)]


def test_a_disk_without_room_is_an_error_and_the_state_stays(tmp_path: Path) -> None:
    ended = run(FULL_DISK, tmp_path / "store")
    assert ended.stderr == ""
    error, state = ended.stdout.splitlines()
    assert "nothing was written; is there room on the disk?" in error
    assert state == "[Held(state=b'before', cells=[[Cell(key=b'k', slot=b'', version=2, value=b'small')], []])]"
