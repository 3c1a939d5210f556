"""items

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("description", sa.String(length=2000), nullable=True),
        sa.Column("owner_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_items_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
    )
    op.create_index(op.f("ix_items_owner_id_id"), "items", ["owner_id", "id"], unique=False)
    op.create_index(
        op.f("ix_items_owner_id_title_id"), "items", ["owner_id", "title", "id"], unique=False
    )
    op.create_index(op.f("ix_items_title_id"), "items", ["title", "id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_items_title_id"), table_name="items")
    op.drop_index(op.f("ix_items_owner_id_title_id"), table_name="items")
    op.drop_index(op.f("ix_items_owner_id_id"), table_name="items")
    op.drop_table("items")
