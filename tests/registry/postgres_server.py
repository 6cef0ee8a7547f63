"""A real PostgreSQL server for the tests: on a free port, in a throw-away folder, as an unprivileged user."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from mlray.registry.database import Database
from mlray.registry.tables import RegistryTable

START_SECONDS = 60
TABLES = (*RegistryTable.metadata.tables, "alembic_version")
# Nothing outlives the machine, so nothing has to reach the disk; what is committed outlives a crash of the server.
OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=60", "shared_buffers=16MB")


@dataclass
class PostgresServer:
    """A running server; `database()` gives a database of its own."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None
    made: Iterator[int] = field(default_factory=count)
    free: dict[str, list[str]] = field(default_factory=dict)
    kept: "dict[str, list[tuple[str, tuple[Any, ...]]]]" = field(default_factory=dict)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str) -> None:
        with self._connected("postgres") as connection:
            connection.autocommit = True
            connection.execute(statement)

    @contextmanager
    def database(self, template: str = "registry") -> Iterator[str]:
        """The URL of a database that holds what the template does, and nobody else uses.

        A new copy takes several times as long as to put the template's few rows back, so copies are kept.
        """
        free = self.free.setdefault(template, [])
        name = free.pop() if free else self._copied(template)
        yield self.url(name)
        try:
            self._put_back(template, name)
            free.append(name)
        except psycopg.Error:  # the test has changed the schema
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _copied(self, template: str) -> str:
        name = f"registry_{next(self.made)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _put_back(self, template: str, name: str) -> None:
        with self._connected(name) as target:
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            target.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            target.execute("SET session_replication_role = replica")  # no foreign keys meanwhile, in any order
            target.execute("; ".join(f"DELETE FROM {table}" for table in TABLES))
            for insert, row in self._rows(template):
                target.execute(insert, row)

    def _rows(self, template: str) -> "list[tuple[str, tuple[Any, ...]]]":
        """What puts each row of the template into a copy; nobody changes a template."""
        if template not in self.kept:
            with self._connected(template) as source:
                self.kept[template] = [found for table in TABLES for found in inserts(source, table)]
        return self.kept[template]

    def _connected(self, name: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=name)

    def start(self) -> None:
        """Returns when the server answers."""
        command = [program("postgres"), "-D", self.folder / "data", "-p", str(self.port), "-k", self.folder]
        settings = [part for option in ("listen_addresses=127.0.0.1", *OPTIONS) for part in ("-c", option)]
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen([*command, *settings], stdout=log, stderr=log, **unprivileged())
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """Ends the server at once, as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)


def inserts(source: "psycopg.Connection[Any]", table: str) -> "Iterator[tuple[str, tuple[Any, ...]]]":
    rows = source.execute(f"SELECT * FROM {table}")
    columns = ", ".join(f'"{column.name}"' for column in rows.description or ())
    for row in rows:
        yield f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * len(row))})", row


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server with the registry's schema in the template database `registry`."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    server = PostgresServer(folder, free_port())
    try:
        if "user" in unprivileged():
            shutil.chown(folder, "postgres")
        initdb = [program("initdb"), "-D", folder / "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, **unprivileged())
        server.start()
        server.execute("CREATE DATABASE registry")
        with Database(server.url("registry")).read():
            pass
        yield server
    finally:
        if server.process is not None:
            server.stop()
        shutil.rmtree(folder)


def program(name: str) -> str:
    """Debian keeps the server's programs beside the path, one folder per version."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, reversed(folders)), os.environ["PATH"]]))
    assert found, f"{name} is not installed; .ci/run installs Debian's postgresql"
    return found


def unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
