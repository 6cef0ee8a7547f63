"""Redis servers of the tests' own: on a free port, with nothing on the disk, ended with the session."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import redis

STARTED_WITHIN = 30


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class RedisServer:
    """A server that can be killed and started again at its port. Options as on the command line, without the dashes."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.port = free_port()
        self._options = {"port": self.port, "bind": "127.0.0.1", "dir": folder, "save": ""} | options
        self._log = folder / "redis.log"
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("the tests need redis-server: apt-get install redis-server")
        options = [part for name, value in self._options.items() for part in (f"--{name}", str(value))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([program, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + STARTED_WITHIN
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running(folder: Path, **options: object) -> Iterator[RedisServer]:
    server = RedisServer(folder, **options)
    try:
        yield server
    finally:
        server.kill()


def redis_call(url: str, *call: object) -> object:
    """The answer to one call by a client of its own."""
    with closing(redis.Redis.from_url(url)) as client:
        return client.execute_command(*call)


def until(true: Callable[[], bool]) -> None:
    """Waits for a condition; fails after half a minute."""
    deadline = time.monotonic() + STARTED_WITHIN
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the session. Take spaces of your own, or FLUSHALL first."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one server, which refuses a call whose keys lie in several slots."""
    options = {"cluster-enabled": "yes", "cluster-port": free_port()}
    with running(tmp_path_factory.mktemp("redis_cluster"), **options) as server:
        redis_call(server.url, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: "cluster_state:ok" in str(redis_call(server.url, "CLUSTER", "INFO")))
        yield server.url
