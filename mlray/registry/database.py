"""The registry's database: where it is, its schema, and its two kinds of transaction.

SQLite runs in WAL mode with foreign keys on and every commit on disk (synchronous=FULL). A transaction that
writes takes the write lock when it begins (BEGIN IMMEDIATE): two writers queue, and neither fails half-way.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from mlray.errors import ConfigError, Conflict, RegistryUnavailable, did_you_mean
from mlray.registry.migrations import upgrade
from mlray.registry.statistics import look_at_tables

LOCK_WAIT_SECONDS = 30
CONNECT_SECONDS = 10
CACHE_KIB = 64 << 10
"""Of SQLite's pages, at most, while a model is renamed. With the 2 MiB that a connection has otherwise, renaming one of
99,000 versions takes 10 s instead of 6.
"""
SCHEMES = ("sqlite", "postgresql")


def absolute_database_url(text: str) -> str:
    """The URL, of SQLite with an absolute path; ConfigError for another scheme, no driver, or in memory."""
    try:
        url = make_url(text)
        scheme = url.get_backend_name()
        if scheme not in SCHEMES:
            near = did_you_mean(scheme, SCHEMES)
            raise ConfigError(f"registry={shown(text)}: no registry database is called '{scheme}'{near}")
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        url.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"registry={_masked(text)!r} is no database URL; write sqlite:////absolute/path.db or postgresql://user@host/name"
        ) from error
    except ModuleNotFoundError as error:
        message = f"registry={shown(text)}: its driver {error.name} is not installed; pip install 'mlray[postgres]'"
        raise ConfigError(message) from error
    if scheme != "sqlite":
        return url.render_as_string(hide_password=False)
    if url.database in (None, "", ":memory:"):
        raise ConfigError(f"registry={_masked(text)!r} lives in memory and would vanish; write sqlite:////absolute/path.db")
    return str(url.set(database=str(Path(url.database or "").expanduser().resolve())))


def _masked(text: str) -> str:
    """What was meant as a URL, for messages: what could be its password is left out."""
    return re.sub(r":[^@]*@", ":***@", text)


def shown(url: str) -> str:
    """The URL for messages: without its password."""
    return make_url(url).render_as_string(hide_password=True)


class Database:
    """Opened, created and migrated at the first transaction; safe to share between threads.

    So a database that is away is an error of the call that needed it, and the next call may find it.
    """

    def __init__(self, url: str) -> None:
        self.url = absolute_database_url(url)
        self._opening = Lock()
        self._engine: Engine | None = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one snapshot and is rolled back at the end."""
        with self._session(writes=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together at the end, or not at all."""
        with self._session(writes=True) as session, session.begin():
            yield session

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        try:
            engine = self._opened().execution_options(mlray_writes=writes, **self._isolation(writes))
            with Session(engine, autoflush=False) as session:
                yield session
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            message = f"the registry's database {shown(self.url)} does not answer: {getattr(error, 'orig', error)}"
            raise RegistryUnavailable(message) from error
        except IntegrityError as error:
            message = f"the database refused the change, which another one has overtaken: {error.orig}; look again"
            raise Conflict(message) from error

    def _isolation(self, writes: bool) -> dict[str, str]:
        if self.url.startswith("sqlite"):  # a transaction of SQLite sees one snapshot, whatever it does
            return {}
        # A writer first waits for the end of the audit chain; what it reads then must be newer than the wait.
        return {"isolation_level": "READ COMMITTED" if writes else "REPEATABLE READ"}

    def _opened(self) -> Engine:
        with self._opening:
            if self._engine is None:
                engine = _engine(make_url(self.url))
                close = finalize(self, engine.dispose)
                try:
                    with engine.execution_options(mlray_writes=True).begin() as connection:
                        upgrade(connection)
                        look_at_tables(connection)
                except BaseException:
                    close()
                    raise
                self._engine = engine
            return self._engine


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})
        event.listen(engine, "connect", _configure_postgresql)
        return engine
    _make_folder(Path(url.database or ""))
    engine = create_engine(url, connect_args={"timeout": LOCK_WAIT_SECONDS, "isolation_level": None})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_folder(database: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"registry=sqlite:///{database}: its folder cannot be made: {error}") from error


def _configure_sqlite(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _configure_postgresql(connection: Any, _record: Any) -> None:
    """No statement of ours runs for as long as PostgreSQL would compile it, 170 to 350 ms."""
    connection.autocommit = True
    connection.execute("SET jit = off").close()
    connection.autocommit = False


@contextmanager
def large_cache(session: Session) -> Iterator[None]:
    """Lets SQLite keep CACHE_KIB of pages meanwhile; nothing elsewhere."""
    connection = session.connection()
    if connection.dialect.name != "sqlite":
        yield
        return
    before = connection.exec_driver_sql("PRAGMA cache_size").scalar_one()
    connection.exec_driver_sql(f"PRAGMA cache_size=-{CACHE_KIB}")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA cache_size={before}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("mlray_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
