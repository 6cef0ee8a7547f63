"""Indexes in the orders in which versions are listed, with their keys; PostgreSQL counts what there is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INSTANTS = ("created_at", "updated_at")
TABLES = (
    "models", "model_versions", "aliases", "audit", "audit_head", "users", "user_roles", "policies", "promotions",
    "approvals", "authors", "retired_names", "model_tags", "version_tags",
)  # fmt: skip
"""Ours: others may have theirs in the same database."""


def upgrade() -> None:
    for column in INSTANTS:
        _index(column, [column, "model", "version"])
    op.create_index("ix_model_versions_newest_first", "model_versions", ["model", sa.text("version DESC")])
    if op.get_bind().dialect.name == "postgresql":  # else it would guess until it does so by itself
        op.execute(f"ANALYZE {', '.join(TABLES)}")


def downgrade() -> None:
    op.drop_index("ix_model_versions_newest_first", "model_versions")
    for column in INSTANTS:
        _index(column, [column])


def _index(column: str, columns: list[str]) -> None:
    op.drop_index(f"ix_model_versions_{column}", "model_versions")
    op.create_index(f"ix_model_versions_{column}", "model_versions", columns)
