"""versions

Revision ID: 20261126T033300_v5ct
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "20261126T033300_v5ct"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ("users", "items", "refresh_tokens", "api_keys")


def upgrade() -> None:
    # Whatever changes a row counts its version: bulk UPDATEs and raw SQL as well. An ORM that
    # counts by itself sends the same number.
    op.execute(
        "CREATE OR REPLACE FUNCTION count_version() RETURNS trigger LANGUAGE plpgsql AS\n"
        "$$ BEGIN NEW.version = OLD.version + 1; RETURN NEW; END $$"
    )
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER count_version BEFORE UPDATE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION count_version()"
        )


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"DROP TRIGGER IF EXISTS count_version ON {table}")
    # Tables of other histories may have a trigger of it.
    op.execute(  # accepted: it drops a function, or does nothing
        "DO $$ BEGIN DROP FUNCTION count_version();"
        " EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$"
    )
