"""lists

Revision ID: 20261126T110300_x1ia
Revises: 20261126T034755_kat9
"""

from alembic import op

revision = "20261126T110300_x1ia"
down_revision = "20261126T034755_kat9"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # One that was given up half-way is there, and of no use.
        for name in ("ix_users_full_name_id", "ix_users_is_active_id", "ix_api_keys_user_id_id"):
            op.drop_index(name, postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_users_full_name_id", "users", ["full_name", "id"], postgresql_concurrently=True
        )
        op.create_index(
            "ix_users_is_active_id", "users", ["is_active", "id"], postgresql_concurrently=True
        )
        op.create_index(
            "ix_api_keys_user_id_id", "api_keys", ["user_id", "id"], postgresql_concurrently=True
        )
        op.drop_index(
            "ix_api_keys_user_id", "api_keys", postgresql_concurrently=True, if_exists=True
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.drop_index("ix_api_keys_user_id", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_api_keys_user_id", "api_keys", ["user_id"], postgresql_concurrently=True
        )
    op.drop_index("ix_api_keys_user_id_id", "api_keys")
    op.drop_index("ix_users_is_active_id", "users")
    op.drop_index("ix_users_full_name_id", "users")
