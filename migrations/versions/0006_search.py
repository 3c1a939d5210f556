"""search

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A list's `q` looks for pieces of text (PostgreSQL manual, pg_trgm).
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    with op.get_context().autocommit_block():
        # One that was given up half-way is there, and of no use.
        for name in ("users_email", "users_full_name", "items_title"):
            op.drop_index(f"ix_{name}_search", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_users_email_search",
            "users",
            ["email"],
            postgresql_using="gin",
            postgresql_ops={"email": "gin_trgm_ops"},
            postgresql_concurrently=True,
        )
        op.create_index(
            "ix_users_full_name_search",
            "users",
            ["full_name"],
            postgresql_using="gin",
            postgresql_ops={"full_name": "gin_trgm_ops"},
            postgresql_concurrently=True,
        )
        op.create_index(
            "ix_items_title_search",
            "items",
            ["title"],
            postgresql_using="gin",
            postgresql_ops={"title": "gin_trgm_ops"},
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index("ix_items_title_search", "items")
    op.drop_index("ix_users_full_name_search", "users")
    op.drop_index("ix_users_email_search", "users")
    op.execute("DROP EXTENSION pg_trgm")
