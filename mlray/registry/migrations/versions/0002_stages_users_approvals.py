"""Stages of versions, users and their roles, policies, approvals and promotions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # SQLite adds and drops plain columns in place; Alembic's batch mode would copy the table, which others refer to.
    op.add_column("model_versions", sa.Column("stage", sa.String(16), nullable=False, server_default="None"))
    op.add_column("model_versions", sa.Column("row_version", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE model_versions SET author = 'os:' || author")  # no author had a token so far
    for stage in ("Canary", "Production"):
        here = sa.text(f"stage = '{stage}'")
        name = f"uq_model_versions_{stage.lower()}"
        op.create_index(name, "model_versions", ["model"], unique=True, sqlite_where=here, postgresql_where=here)
    _create_users()
    _create_policies()
    _create_promotions()
    _create_approvals()


def downgrade() -> None:
    op.drop_index("ix_approvals_model", "approvals")
    op.drop_table("approvals")
    op.drop_index("ix_promotions_model", "promotions")
    op.drop_table("promotions")
    op.drop_table("policies")
    op.drop_table("user_roles")
    op.drop_table("users")
    for stage in ("canary", "production"):
        op.drop_index(f"uq_model_versions_{stage}", "model_versions")
    op.execute("UPDATE model_versions SET author = substr(author, 4) WHERE author LIKE 'os:%'")
    op.drop_column("model_versions", "row_version")
    op.drop_column("model_versions", "stage")


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
        sa.UniqueConstraint("token_sha256", name="uq_users_token_sha256"),
    )
    op.create_table(
        "user_roles",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("role", sa.String(128), nullable=False),
        sa.Column("granted", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", "role", name="pk_user_roles"),
        sa.ForeignKeyConstraint(["name"], ["users.name"], name="fk_user_roles_name"),
    )


def _create_policies() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("revision", sa.String(64), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
    )


def _create_promotions() -> None:
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("policy_revision", sa.String(64), nullable=False),
        sa.Column("ended", sa.String(16)),
        sa.PrimaryKeyConstraint("id", name="pk_promotions"),
        _of_version("promotions"),
    )
    op.create_index("ix_promotions_model", "promotions", ["model"])


def _create_approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("policy_revision", sa.String(64), nullable=False),
        sa.Column("role", sa.String(128), nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("promotion", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
        _of_version("approvals"),
        sa.ForeignKeyConstraint(["who"], ["users.name"], name="fk_approvals_who"),
        sa.ForeignKeyConstraint(["promotion"], ["promotions.id"], name="fk_approvals_promotion"),
    )
    op.create_index("ix_approvals_model", "approvals", ["model", "version"])


def _of_version(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["model", "version"],
        ["model_versions.model", "model_versions.version"],
        name=f"fk_{table}_model_version",
        onupdate="CASCADE",
    )
