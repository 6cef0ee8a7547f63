"""A real `mlflow server` in an environment of its own, which is made once and kept under build/."""

import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import requires, version
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NEEDS = ("mlflow-skinny", "flask", "flask-cors", "alembic", "sqlalchemy", "pandas", "aiohttp", "cryptography")
"""What the server's code imports; all of `mlflow` is 1 GB more."""
DEADLINE = 180


def environment() -> Path:
    """The Python that has the server."""
    pins = [f"{name}=={version(name)}" for name in needed()]
    home = ROOT / "build" / f"mlflow-server-{hashlib.sha256(' '.join(pins).encode()).hexdigest()[:12]}"
    if not home.exists():
        aside = home.with_name(f".{home.name}.{os.getpid()}")
        venv.create(aside, with_pip=False)
        install = [sys.executable, "-m", "pip", "--python", str(aside / "bin" / "python"), "install", "--quiet"]
        as_told = ["--disable-pip-version-check", "--no-deps", "--no-compile"]  # what it needs is known already
        subprocess.run([*install, *as_told, *pins], check=True, capture_output=True)
        aside.rename(home)  # what pip wrote into it names no path that is used here
    return home / "bin" / "python"


def needed() -> list[str]:
    """NEEDS and what they need in turn, by what is installed here."""
    found, waiting = set[str](), list(NEEDS)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, requires(name) or ())
            waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return sorted(found)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The URL of a server that keeps all it is told in `folder`."""
    python, tables = environment(), folder / "mlflow.db"
    kept = python.parents[1] / "empty.db"
    if kept.exists():
        shutil.copy(kept, tables)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{tables}", "--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *stores], env=clean | quiet, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, folder / "log")
            if not kept.exists():
                keep(tables, kept)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # of it and of the process that it started to answer
            server.wait()


def keep(tables: Path, kept: Path) -> None:
    """The tables of a server that was told nothing yet: to make them takes it seconds."""
    aside = kept.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(tables)) as found, closing(sqlite3.connect(aside)) as copy:
        found.backup(copy)
    aside.rename(kept)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return urlopen(url, timeout=5).close()
        except (URLError, ConnectionError):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlflow server does not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
