"""Descriptions, tags and sources; names that were given up; the authors of bytes; indexes to search by."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEXED: dict[str, tuple[str, ...]] = {
    "ix_model_versions_run_id": ("run_id",),
    "ix_model_versions_source": ("source",),
    "ix_model_versions_created_at": ("created_at",),
    "ix_model_versions_updated_at": ("updated_at",),
    "ix_model_versions_stage": ("stage", "model", "version"),
    "ix_model_versions_service": ("service", "model", "version"),
    "ix_model_versions_version": ("version", "model"),
    "ix_model_versions_model_created_at": ("model", "created_at", "version"),
    "ix_model_versions_model_updated_at": ("model", "updated_at", "version"),
}
# What is searched and ordered by. PostgreSQL compares two columns only where both have one collation.
TEXTS = {
    "models": ("name",),
    "retired_names": ("name", "became"),
    "model_versions": ("model", "digest", "service", "run_id", "source", "stage"),
    "aliases": ("model", "alias"),
    "promotions": ("model",),
    "approvals": ("model",),
    "model_tags": ("model", "key", "start", "value"),
    "version_tags": ("model", "key", "start", "value"),
}
# The actions of the audit after which `updated_at` is another one.
MADE = ("register", "register_source", "copy")
OF_MODELS = (*MADE, "create_model", "set_alias", "remove_alias", "delete_version")
OF_VERSIONS = (*MADE, "promote", "archive", "rollback")
LABELS = ("describe", "set_tag", "delete_tag")
WITHOUT_LENGTH = ("service", "run_id", "source", "key", "start", "value")
LENGTHS = {"digest": 64, "stage": 16}


def upgrade() -> None:
    for table in ("models", "model_versions"):
        op.add_column(table, sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")))
        op.add_column(table, sa.Column("updated_at", sa.BigInteger, nullable=False, server_default="0"))
        op.execute(f"UPDATE {table} SET updated_at = created_at")
    _restore_last_changes()
    op.add_column("model_versions", sa.Column("source", sa.Text, nullable=False, server_default=sa.text("''")))
    _create_retired_names()
    _create_authors()
    _create_tags("model_tags", sa.ForeignKeyConstraint(["model"], ["models.name"], "fk_model_tags_model", "CASCADE"))
    _create_tags("version_tags", _of_version("version_tags"))
    _collate("C")
    for name, columns in INDEXED.items():
        op.create_index(name, "model_versions", list(columns))
    for column in ("created_at", "updated_at"):
        op.create_index(f"ix_models_{column}", "models", [column])
    op.create_index("ix_aliases_alias", "aliases", ["alias", "model"])


def downgrade() -> None:
    op.drop_index("ix_aliases_alias", "aliases")
    for column in ("created_at", "updated_at"):
        op.drop_index(f"ix_models_{column}", "models")
    for name in INDEXED:
        op.drop_index(name, "model_versions")
    _collate("default")
    for table in ("version_tags", "model_tags"):
        op.drop_index(f"ix_{table}_key", table)
        op.drop_table(table)
    op.drop_table("authors")
    op.drop_table("retired_names")
    op.drop_column("model_versions", "source")
    for table in ("models", "model_versions"):
        op.drop_column(table, "updated_at")
        op.drop_column(table, "description")


def _restore_last_changes() -> None:
    """As the audit tells them, against which they are held."""
    last: dict[tuple[str | int, ...], int] = {}
    rows = sa.text("SELECT at, action, model, before, after FROM audit ORDER BY sequence")
    for at, action, model, before, after in op.get_bind().execute(rows):
        said = json.loads(after or "null") or json.loads(before or "null") or {}
        if "unchanged" in said:
            continue
        if action == "rename_model":
            last = {(said["name"], *key[1:]) if key[0] == model else key: when for key, when in last.items()}
            last[said["name"],] = at
        if action in OF_MODELS or (action in LABELS and "version" not in said):
            last[model,] = at
        if action in OF_VERSIONS or (action in LABELS and "version" in said):
            last[model, said["version"]] = at
    models = [{"at": at, "model": key[0]} for key, at in last.items() if len(key) == 1]
    versions = [{"at": at, "model": key[0], "version": key[1]} for key, at in last.items() if len(key) == 2]
    here = "model = :model AND version = :version"
    for changed, statement in (
        (models, "UPDATE models SET updated_at = :at WHERE name = :model"),
        (versions, f"UPDATE model_versions SET updated_at = :at WHERE {here}"),
    ):
        if changed:
            op.get_bind().execute(sa.text(statement), changed)


def _create_retired_names() -> None:
    op.create_table(
        "retired_names",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("last_version", sa.Integer, nullable=False),
        sa.Column("became", sa.String(128)),
        sa.PrimaryKeyConstraint("name", name="pk_retired_names"),
        sa.ForeignKeyConstraint(
            ["became"], ["models.name"], name="fk_retired_names_became", onupdate="CASCADE", ondelete="SET NULL"
        ),
    )


def _create_authors() -> None:
    op.create_table(
        "authors",
        sa.Column("origin", sa.String(64), nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("origin", "author", name="pk_authors"),
    )
    op.execute("INSERT INTO authors SELECT DISTINCT digest, author FROM model_versions")


def _create_tags(table: str, of: sa.ForeignKeyConstraint) -> None:
    version = [sa.Column("version", sa.Integer, nullable=False)] if table == "version_tags" else []
    names = ["model", *(column.name for column in version)]
    op.create_table(
        table,
        sa.Column("model", sa.String(128), nullable=False),
        *version,
        *(sa.Column(name, sa.Text, nullable=False) for name in ("key", "start", "value")),
        sa.PrimaryKeyConstraint(*names, "key", name=f"pk_{table}"),
        of,
    )
    op.create_index(f"ix_{table}_key", table, ["key", "start", *names])


def _of_version(table: str) -> sa.ForeignKeyConstraint:
    there = ["model_versions.model", "model_versions.version"]
    return sa.ForeignKeyConstraint(["model", "version"], there, f"fk_{table}_model_version", "CASCADE")


def _collate(collation: str) -> None:
    """SQLite orders by code points anyway."""
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, columns in TEXTS.items():
        kinds = {name: "text" if name in WITHOUT_LENGTH else f"varchar({LENGTHS.get(name, 128)})" for name in columns}
        changes = [f'ALTER COLUMN {name} TYPE {kind} COLLATE "{collation}"' for name, kind in kinds.items()]
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")
