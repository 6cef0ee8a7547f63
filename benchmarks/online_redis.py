"""A Redis server of the benchmark's own, and a bare client that fetches what a read fetches."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import redis

from benchmarks.online_data import SERVICES
from mlray.online.encoding import plain_keys
from mlray.online.record import space

_STARTED_WITHIN = 60


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of a server that keeps nothing on the disk; it ends with the block."""
    port = _free_port()
    log = folder / "redis.log"
    command = [_program(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            _await(port, process, log)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def server_version() -> str:
    """What `server` starts."""
    told = subprocess.run([_program(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"redis-server {told.partition('v=')[2].split()[0]}"


def _program() -> str:
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("benchmark D needs redis-server: apt-get install redis-server")
    return program


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _await(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN
    while True:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"redis-server does not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def bare(url: str, workload: str) -> Callable[[Sequence[int]], None]:
    """Fetches, in one pipeline of redis-py, the hashes of every view for these keys; LookupError where one is empty."""
    client = redis.Redis.from_url(url)
    prefixes = [b"mlray:{" + quote(space(view), safe="").encode() + b"}:keys:" for view in SERVICES[workload].views]

    def fetch(keys: Sequence[int]) -> None:
        encoded = [key or b"" for key in plain_keys([keys], [pa.int64()])]
        pipeline = client.pipeline(transaction=False)
        for prefix in prefixes:
            for key in encoded:
                pipeline.hgetall(prefix + key)
        if not all(pipeline.execute()):
            raise LookupError(f"{workload}: a key has no hash; Redis keys are laid out in another way by now")

    return fetch
