"""jobs

Revision ID: 20261126T133500_j0bs
Revises: 20261126T110300_x1ia
"""

import sqlalchemy as sa
from alembic import op

revision = "20261126T133500_j0bs"
down_revision = "20261126T110300_x1ia"
branch_labels = None
depends_on = None

LIVE = sa.text("state IN ('waiting', 'running')")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column(
            "run_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("tick", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("state IN ('waiting', 'running', 'failed', 'done')", name="state"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index("ix_jobs_due", "jobs", ["task", "run_at", "id"], postgresql_where=LIVE)
    op.create_index(
        "ix_jobs_running", "jobs", ["task"], postgresql_where=sa.text("state = 'running'")
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "id"])
    op.create_index("ix_jobs_task", "jobs", ["task", "id"])
    op.create_index("ix_jobs_task_key", "jobs", ["task", "key"], unique=True, postgresql_where=LIVE)
    op.create_index("ix_jobs_task_tick", "jobs", ["task", "tick"], unique=True)


def downgrade() -> None:
    op.drop_table("jobs")
