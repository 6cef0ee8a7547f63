"""What PostgreSQL knows of the registry's tables when it plans: without it, it takes every condition to hold for one
row in two hundred, and reads whole tables. It looks at a table by itself a minute after that has grown; of one that was
restored, or filled by an import, it has seen nothing yet.
"""

from sqlalchemy import Connection, text

from mlray.registry.tables import RegistryTable

_UNSEEN = text(
    "SELECT relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    "WHERE relkind = 'r' AND nspname = current_schema() AND pg_relation_size(c.oid) > :size "
    "AND NOT EXISTS (SELECT 1 FROM pg_stats AS s WHERE s.schemaname = nspname AND s.tablename = relname)"
)
_SMALL = 1 << 20
"""Bytes of a table that may as well be read whole."""


def look_at_tables(connection: Connection) -> None:
    """Has PostgreSQL look at those of our tables that it has not seen; nothing elsewhere."""
    if connection.dialect.name == "postgresql":
        unseen = set(connection.execute(_UNSEEN, {"size": _SMALL}).scalars())
        for table in sorted(unseen & set(RegistryTable.metadata.tables)):
            connection.execute(text(f"ANALYZE {table}"))
