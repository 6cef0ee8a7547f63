"""The schema's history, run by the registry itself at its first transaction: no alembic.ini is needed."""

from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from mlray.errors import ConfigError

# Alembic keeps its running environment in a global of the process.
_ONE_AT_A_TIME = Lock()
# Any constant of ours: it serialises the migrations of one PostgreSQL database.
_ADVISORY_LOCK = 0x6D6C7261


def upgrade(connection: Connection, to: str = "head") -> None:
    """Brings the schema up within the connection's transaction; ConfigError where it is of a newer mlray."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    config = _config(connection)
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    known = [script.revision for script in scripts.walk_revisions()]
    if current is not None and current not in known:
        raise ConfigError(
            f"the registry's database has schema {current}; this mlray knows {', '.join(reversed(known))}: "
            "it was written by a newer mlray; install that one"
        )
    if current != scripts.get_current_head():
        with _ONE_AT_A_TIME:
            command.upgrade(config, to)


def downgrade(connection: Connection, to: str) -> None:
    """Brings the schema down to a revision, or to nothing with `base`; what only the newer held is lost."""
    with _ONE_AT_A_TIME:
        command.downgrade(_config(connection), to)


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
