"""sign_ins

Revision ID: 20261126T034755_kat9
Revises: 20261126T033300_v5ct
"""

import sqlalchemy as sa
from alembic import op

revision = "20261126T034755_kat9"
down_revision = "20261126T033300_v5ct"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A token that is not spent is its sign-in from here on, so all of them go on. The version
    # before and this one understand each other's rows.
    op.add_column("refresh_tokens", sa.Column("previous_digest", sa.LargeBinary(), nullable=True))
    op.add_column("refresh_tokens", sa.Column("salt", sa.LargeBinary(), nullable=True))

    op.add_column(
        "sign_in_attempts",
        sa.Column("pending", sa.Integer(), server_default="0", nullable=False),
    )
    op.add_column(
        "sign_in_attempts", sa.Column("succeeded_at", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("sign_in_attempts", "succeeded_at")
    op.drop_column("sign_in_attempts", "pending")
    op.drop_column("refresh_tokens", "salt")
    op.drop_column("refresh_tokens", "previous_digest")
