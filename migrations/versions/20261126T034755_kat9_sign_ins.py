"""sign_ins

Revision ID: 20261126T034755_kat9
Revises: 20261126T033300_v5ct
"""

from unicodedata import normalize

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError
from email_validator import EmailNotValidError, validate_email

revision = "20261126T034755_kat9"
down_revision = "20261126T033300_v5ct"
branch_labels = None
depends_on = None

# Of which a sign-in now asks for one form: letters beyond ASCII, blanks, domains in punycode.
OTHER_FORMS = (
    "SELECT id, email FROM users WHERE email ~ '[^!-~]' OR email LIKE '%@%xn--%' ORDER BY id"
)
TWIN = sa.text("SELECT id FROM users WHERE email = :email")
CHANGE = sa.text("UPDATE users SET email = :email WHERE id = :id")


def upgrade() -> None:
    # A change of the password ended the sign-ins of before by its time alone. What it has ended
    # must not begin anew.
    # accepted: the version before takes these for ended, and locks none of them
    op.execute(
        "DELETE FROM refresh_tokens USING users"
        " WHERE users.id = user_id AND refresh_tokens.created_at < password_changed_at"
    )

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

    if not op.get_context().as_sql:
        give_addresses_one_form(op.get_bind())


def give_addresses_one_form(connection: sa.Connection) -> None:
    """Sign-up has stored this form before; seeds and SQL may have stored others."""
    for user_id, email in connection.execute(sa.text(OTHER_FORMS)).all():
        try:
            address = validate_email(email.strip(), check_deliverability=False).normalized
        except EmailNotValidError:
            continue  # nobody signs in with that
        address = normalize("NFC", address.lower())
        if address == email:
            continue
        if twin := connection.scalar(TWIN, {"email": address}):
            raise CommandError(
                f"the users {twin} and {user_id} have one e-mail address in two forms:"
                " change or delete one of them, then upgrade again"
            )
        connection.execute(CHANGE, {"email": address, "id": user_id})


def downgrade() -> None:
    op.drop_column("sign_in_attempts", "succeeded_at")
    op.drop_column("sign_in_attempts", "pending")
    op.drop_column("refresh_tokens", "salt")
    op.drop_column("refresh_tokens", "previous_digest")
