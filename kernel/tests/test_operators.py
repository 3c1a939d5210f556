"""Operators' commands about accounts, as they are run."""

import subprocess
import sys

import pytest

from kernel.settings import ROOT
from kernel.testing.callers import PASSWORD
from kernel.tests.app import PATHS

pytestmark = pytest.mark.house  # a team may ask for more of an account than the command has

SECRET = "8b1f0c67d2e94a35" * 2


@pytest.fixture
def command(database_url):
    def run(*arguments, stdin=""):
        done = subprocess.run(
            [sys.executable, "-m", "features.users", *arguments],
            cwd=ROOT,
            env={"APP_DATABASE_URL": database_url, "APP_ENV": "prod", "APP_JWT_SECRET": SECRET},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return run


async def test_the_first_admin_is_made_by_a_command(command, client, sql):
    made = command("create", "Ro\u0301ot@Example.com", "--admin", stdin=f"{PASSWORD}\n")
    assert made == (0, "r\u00f3ot@example.com is an admin now\n", "")
    row = await sql.fetchrow("SELECT email, full_name, role, is_active FROM users")
    assert tuple(row) == ("r\u00f3ot@example.com", "Ro\u0301ot", "admin", True)
    form = {"username": "r\u00f3ot@example.com", "password": PASSWORD}
    assert (await client.post(PATHS["create_token"], data=form)).status_code == 200
    again = command("create", "R\u00f3ot@example.com", stdin=f"{PASSWORD}\n")
    assert again == (1, "", "there is a user with this e-mail address\n")


async def test_a_member_is_made_and_promoted(command, sql):
    arguments = ("create", "ada@example.com", "--name", "Ada Lovelace")
    assert command(*arguments, stdin=PASSWORD)[:2] == (0, "ada@example.com is a member now\n")
    promoted = command("promote", " ADA@example.com")
    assert promoted == (0, "ada@example.com is an admin now\n", "")
    assert await sql.fetchval("SELECT role FROM users WHERE full_name = 'Ada Lovelace'") == "admin"
    unknown = (1, "", "there is no user with this e-mail address\n")
    assert command("promote", "nobody@example.com") == command("promote", "x") == unknown


@pytest.mark.parametrize(
    ("email", "stdin", "told"),
    [
        ("root@example.com", "trustno1\n", "password: "),
        ("root@example.com", "", "password: "),
        ("root@example.com", "root@example.com", "password should not be the e-mail"),
        ("root", PASSWORD, "email: "),
    ],
)
async def test_what_is_no_account_is_told_without_its_values(command, sql, email, stdin, told):
    status, out, err = command("create", email, "--admin", stdin=stdin)
    assert (status, out) == (1, "")
    assert told in err
    assert "Traceback" not in err
    assert "trustno1" not in err
    assert await sql.fetchval("SELECT count(*) FROM users") == 0
