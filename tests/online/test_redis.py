"""What only a server can do: be away, restarted, full, locked, shared with others, or a newer one."""

import logging
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mlray.errors import ConfigError, Conflict, StoreError
from mlray.online.redis import PAGE_KEYS
from mlray.online.redis_scripts import DROP
from mlray.online.redis_server import Server
from mlray.online.store import Cell, Held, OnlineStore, open_store, shown
from tests.redis_server import free_port, redis_call, running, until

NOTE = Path(__file__).parents[2] / "docs" / "design" / "redis.md"
KEYS = [b"%04d" % i for i in range(500)]
FORKED = """
import os, sys
from mlray.online.store import Cell, open_store
store = open_store(sys.argv[1])
store.write("forked", [Cell(b"k", b"", 1, b"parent's")])
child = os.fork()
if child == 0:
    assert store.read([("forked", [b"k"])])[0].cells[0][0].value == b"parent's"
    store.write("forked", [Cell(b"k", b"", 2, b"child's")])
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(store.read([("forked", [b"k"])])[0].cells[0][0].value.decode())
"""
WITHOUT_PACKAGE = """
import sys
sys.modules["redis"] = None
from mlray.online.store import open_store
open_store("redis://:secret@nowhere")
"""


@contextmanager
def opened(url: str) -> Iterator[OnlineStore]:
    with closing(open_store(url)) as store:
        yield store


@pytest.fixture
def store(redis_url: str) -> Iterator[OnlineStore]:
    redis_call(redis_url, "FLUSHALL")
    with opened(redis_url) as store:
        yield store


def cells(version: int, size: int = 0) -> list[Cell]:
    return [Cell(key, b"", version, b"%d" % version + b"." * size) for key in KEYS]


def seen(store: OnlineStore) -> set[bytes]:
    return {found[0].value if found else b"" for found in store.read([("s", KEYS)])[0].cells}


# Servers that go away


def test_a_server_that_is_killed_is_an_error_and_once_restarted_has_whole_writes(tmp_path: Path) -> None:
    with running(tmp_path, appendonly="yes", appendfsync="always") as server, opened(server.url) as store:
        done = list[int]()

        def write() -> None:
            for version in range(1, 10_000):
                store.write("s", cells(version), state=b"%d" % version)
                done.append(version)

        with ThreadPoolExecutor() as threads:
            writer = threads.submit(write)
            until(lambda: len(done) > 5)
            server.kill()
            with pytest.raises(StoreError, match=r"is it running, and reachable from here\?"):
                writer.result()
        with pytest.raises(StoreError, match=f"127.0.0.1:{server.port}/0: .*refused; is it running"):
            open_store(server.url)
        server.start()
        until(lambda: "'loading': 0" in str(redis_call(server.url, "INFO", "persistence")))
        state = store.state("s") or b""
        assert int(state) in (done[-1], done[-1] + 1)
        assert seen(store) == {state}


def test_a_write_whose_answer_is_lost_is_done_once_and_counted_as_it_was(store: OnlineStore, redis_url: str) -> None:
    with losing_an_answer(redis_url) as url, opened(url) as through:
        assert through.write("s", [Cell(b"k", b"", 1, b"v")], state=b"two", over=None) == 1
        with pytest.raises(Conflict):
            through.write("s", [], state=b"three", over=None)
    assert store.read([("s", [b"k"])]) == [Held(b"two", [[Cell(b"k", b"", 1, b"v")]])]


@contextmanager
def losing_an_answer(url: str) -> Iterator[str]:
    """The server's URL through a door that takes the first script call with cells to it and not the answer back."""
    target, lost = ("127.0.0.1", int(url.split(":")[-1].split("/")[0])), threading.Event()
    door = socket.create_server(("127.0.0.1", 0))

    def pass_on(inside: socket.socket) -> None:
        with inside, socket.create_connection(target) as outside:
            while asked := inside.recv(1 << 16):
                outside.sendall(asked)
                answer = outside.recv(1 << 16)
                if b"EVALSHA" in asked and b"NOSCRIPT" not in answer and not lost.is_set():
                    lost.set()
                    return
                inside.sendall(answer)

    def let_in() -> None:
        for _ in range(10):
            try:
                inside, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=pass_on, args=[inside], daemon=True).start()

    threading.Thread(target=let_in, daemon=True).start()
    yield f"redis://127.0.0.1:{door.getsockname()[1]}/0"
    assert lost.is_set()
    door.shutdown(socket.SHUT_RDWR)
    door.close()


def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(store: OnlineStore, redis_url: str) -> None:
    store.write("s", cells(1))
    redis_call(redis_url, "SCRIPT", "FLUSH")
    assert seen(store) == {b"1"}
    redis_call(redis_url, "SCRIPT", "FLUSH")
    assert store.write("s", cells(2)) == len(KEYS)


def test_a_server_that_is_silent_is_an_error_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=0.1"
        with pytest.raises(StoreError, match="it did not answer in time"):
            open_store(url)


@pytest.mark.parametrize(("says", "message"), [
    (b"-LOADING Redis is loading the dataset in memory\r\n", "it reads its data after a start; try again later"),
    (b"$19\r\nredis_version:6.2.7\r\n", "is Redis 6.2.7; mlray needs 7 or newer"),
    (b"HTTP/1.1 400 Bad Request\r\n", "the server refused the call"),
])
def test_a_server_that_is_not_ready_or_none_is_named(says: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=answering, args=(door, says), daemon=True).start()
        with pytest.raises(StoreError, match=message):
            open_store(f"redis://127.0.0.1:{door.getsockname()[1]}/0")
        door.shutdown(socket.SHUT_RDWR)


def answering(door: socket.socket, says: bytes) -> None:
    """Says the same to every call."""
    while True:
        try:
            inside, _ = door.accept()
        except OSError:
            return
        with inside:
            while asked := inside.recv(4096):
                calls = asked.count(b"\r\nCLIENT\r\n") + asked.count(b"\r\nINFO\r\n") + asked.count(b"\r\nSELECT\r\n")
                inside.sendall(says * calls)


def test_a_fork_opens_connections_of_its_own(redis_url: str) -> None:
    ended = subprocess.run([sys.executable, "-W", "error", "-c", FORKED, redis_url], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("child's\n", "")


# Memory


def test_a_full_server_writes_all_or_nothing_is_read_and_can_be_emptied(tmp_path: Path) -> None:
    with running(tmp_path, maxmemory="8mb") as server, opened(server.url) as store:
        store.write("s", cells(1, 10_000), state=b"before")
        store.write("t", cells(1, 100))
        redis_call(server.url, "CONFIG", "SET", "maxmemory", "2mb")
        with pytest.raises(StoreError, match=r"nothing was written; raise its maxmemory, or run mlray online gc"):
            store.write("s", cells(2), deletes=[(key, b"", 1) for key in KEYS[:100]], state=b"after", over=b"before")
        assert (store.state("s"), seen(store)) == (b"before", {b"1" + b"." * 10_000})
        store.drop("s")
        assert store.spaces() == ["t"]
        assert store.write("t", cells(2)) == len(KEYS)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_a_server_that_would_forget_events_is_refused(redis_url: str, policy: str) -> None:
    redis_call(redis_url, "CONFIG", "SET", "maxmemory-policy", policy)
    try:
        with pytest.raises(StoreError, match=f"{policy}: when its memory is full it would forget events.*noeviction"):
            open_store(redis_url)
    finally:
        redis_call(redis_url, "CONFIG", "SET", "maxmemory-policy", "noeviction")


# Who may


def test_over_tls_with_a_password_the_certificate_and_the_password_are_checked(tmp_path: Path) -> None:
    made = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=test -addext subjectAltName=IP:127.0.0.1 "
    subprocess.run((made + "-keyout key.pem -out cert.pem").split(), cwd=tmp_path, check=True, capture_output=True)
    port, cert = free_port(), tmp_path / "cert.pem"
    tls = {"tls-port": port, "tls-cert-file": cert, "tls-key-file": tmp_path / "key.pem", "tls-ca-cert-file": cert,
           "tls-auth-clients": "no", "requirepass": "s3cret"}
    with running(tmp_path, **tls):
        url = "rediss://:{}@127.0.0.1:{}/0?ssl_ca_certs={}"
        with opened(url.format("s3cret", port, cert)) as store:
            assert store.write("s", cells(1)) == len(KEYS)
        for wrong, message in (
            (url.format("s3crets", port, cert), "give a user and password that it knows: redis://user:password@host"),
            (f"rediss://:s3cret@127.0.0.1:{port}/0", "certificate verify failed"),
            (f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}", "give a user and password"),
        ):
            with pytest.raises(StoreError, match=message) as refused:
                open_store(wrong)
            assert "s3cret" not in str(refused.value)


def test_a_user_needs_the_rights_of_the_note_and_is_told_where_the_policy_cannot_be_seen(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis_call(redis_url, "FLUSHALL")
    rights = re.findall(r"\+[a-z]+(?:\|load)?", NOTE.read_text())
    redis_call(redis_url, "ACL", "SETUSER", "shop", "reset", "on", ">pw", "~mlray:*", *rights, "-info")
    with caplog.at_level(logging.WARNING), opened(redis_url.replace("//", "//shop:pw@")) as asked:
        for version in (1, 2):
            assert asked.write("s", cells(version), state=b"", deletes=[(b"0001", b"", 1)]) == len(KEYS)
        assert (seen(asked), asked.spaces(), asked.stats("s").keys) == ({b"2"}, ["s"], len(KEYS))
        assert len(list(asked.scan("s"))) == len(KEYS)
        asked.drop("s")
    assert redis_call(redis_url, "DBSIZE") == 0
    assert "INFO is forbidden; that its maxmemory-policy is noeviction cannot be checked" in caplog.text


def test_a_user_who_may_not_run_scripts_is_told_so(redis_url: str) -> None:
    redis_call(redis_url, "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-@scripting")
    with opened(redis_url.replace("//", "//reader:pw@")) as store, pytest.raises(StoreError, match="must be allowed"):
        store.state("s")


# What else lies there


@pytest.mark.parametrize("call", [
    lambda s: s.read([("t", [b"k"]), ("s", [b"k"])]), lambda s: s.state("s"), lambda s: list(s.scan("s")),
    lambda s: s.stats("s"), lambda s: s.drop("s"), lambda s: s.write("s", [Cell(b"k", b"", 2, b"")], state=b"mine"),
])
def test_a_space_of_a_newer_format_is_refused_and_kept(
    store: OnlineStore, redis_url: str, call: Callable[[OnlineStore], object]
) -> None:
    store.write("s", [Cell(b"k", b"", 1, b"")], state=b"newer")
    redis_call(redis_url, "HSET", "mlray:{s}", "format", "2")
    with pytest.raises(StoreError, match="space s has format 2, this mlray knows formats up to 1; install a"):
        call(store)
    assert redis_call(redis_url, "HGET", "mlray:{s}", "state") == b"newer"
    assert redis_call(redis_url, "HLEN", "mlray:{s}:keys:k") == 1


def test_what_others_keep_on_the_server_is_neither_listed_nor_touched(store: OnlineStore, redis_url: str) -> None:
    redis_call(redis_url, "SET", "theirs", "1")
    redis_call(redis_url, "HSET", "mlray:{theirs}x", "format", "9")
    store.write("s", cells(1), state=b"x")
    assert store.spaces() == ["s"]
    store.drop("s")
    assert sorted(redis_call(redis_url, "KEYS", "*")) == [b"mlray:{theirs}x", b"theirs"]  # type: ignore[call-overload]


@pytest.mark.parametrize("finish", ["write", "drop", "drop another"])
def test_a_drop_that_was_cut_short_is_over_at_once_and_finished_by_the_next(
    store: OnlineStore, redis_url: str, finish: str
) -> None:
    store.write("s", [Cell(b"%05d" % i, b"", 9, b"old") for i in range(PAGE_KEYS + 10)], state=b"old")
    with closing(Server(redis_url)) as server:
        server.run([DROP.call([b"mlray:{s}", b"mlray:{s}:dropped", b"mlray:{s}:writes"])])
    assert (store.spaces(), store.read([("s", [b"00007"])]), list(store.scan("s"))) == ([], [Held(None, [[]])], [])
    if finish == "write":
        store.write("s", [Cell(b"k", b"", 1, b"new")])
        assert list(store.scan("s")) == [Cell(b"k", b"", 1, b"new")]
    store.drop("other" if finish == "drop another" else "s")
    assert redis_call(redis_url, "DBSIZE") == 0


def test_a_scan_and_its_counts_go_over_many_pages_and_large_cells(store: OnlineStore) -> None:
    large = [Cell(b"%05d" % i, b"", 1, b"x" * 2_000_000) for i in range(5)]
    small = [Cell(b"%05d" % i, slot, 1, b"") for i in range(5, PAGE_KEYS + 100) for slot in (b"", b"a")]
    store.write("s", large)
    store.write("s", small)
    assert list(store.scan("s")) == large + small
    assert store.stats("s").cells == len(large + small)


# URLs


@pytest.mark.parametrize(("url", "message"), [
    ("redis://", r"the host is missing; write redis://host:6379/0"),
    ("rediss://", r"the host is missing; write rediss://host:6379/0"),
    ("redis://host/features", "a database is a number, not 'features'"),
    ("redis://:s3cret@host:port/0", "'port'"),
    ("redis://:s3cret@127.0.0.1:1/0?sokcet_timeout=1", "sokcet_timeout"),
    ("redis+tls://:s3cret@host", "there is no store 'redis\\+tls'"),
    ("redis+sentinel://:s3cret@host:26379/mymaster", "a name that follows the primary"),
])
def test_a_url_that_cannot_work_says_what_to_write(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        open_store(url)
    assert "s3cret" not in str(refused.value)


def test_a_sentinel_is_known_and_told_apart_from_the_server_that_it_watches(tmp_path: Path) -> None:
    port, settings = free_port(), tmp_path / "sentinel.conf"
    settings.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n")
    with subprocess.Popen(["redis-server", str(settings), "--sentinel"], stdout=subprocess.DEVNULL) as sentinel:
        try:
            until(lambda: answers(port))
            with pytest.raises(ConfigError, match=r"Sentinel is not spoken.*a name that follows the primary"):
                open_store(f"redis://127.0.0.1:{port}")
        finally:
            sentinel.kill()


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(("url", "seen"), [
    ("redis://me:p@ss:w@host:1/0?a=b", "redis://me:***@host:1/0?a=b"),
    ("redis://:pw@host", "redis://:***@host"),
    ("redis://host?password=pw&db=1", "redis://host?password=***&db=1"),
    ("redis://host:6379/0", "redis://host:6379/0"),
    ("lmdb:///data/online", "lmdb:///data/online"),
])
def test_a_password_is_not_shown(url: str, seen: str) -> None:
    assert shown(url) == seen


def test_without_the_package_the_extra_is_named() -> None:
    ended = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGE], capture_output=True, text=True)
    assert "ConfigError: online='redis://:***@nowhere' needs a package: pip install 'mlray[redis]'" in ended.stderr


def test_databases_of_one_server_are_stores_apart(store: OnlineStore, redis_url: str) -> None:
    store.write("s", cells(1))
    with opened(redis_url.removesuffix("0") + "1") as other:
        assert other.spaces() == []
