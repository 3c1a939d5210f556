"""What a team changes about its callers: roles, credentials, accounts, where they sign in."""

from kernel.tests.extensions.copies import Copy

LEDGER = {
    "models.py": """\
from kernel import Dto


class LedgerPublic(Dto):
    is_open: bool
""",
    "router.py": """\
from typing import Annotated

from fastapi import Depends

from features.ledger.models import LedgerPublic
from kernel import Person, Principal, Router, require

router = Router(prefix="/ledger", tags=["ledger"])
Clerk = Annotated[Principal, Depends(require("accountant", "admin"))]
Accountant = Annotated[Principal, Depends(require("accountant"))]


@router.get("")
async def get_ledger(_: Clerk) -> LedgerPublic:
    return LedgerPublic(is_open=True)


@router.put("/closing")
async def close_ledger(_: Accountant) -> LedgerPublic:
    return LedgerPublic(is_open=False)


@router.post("/signature")
async def sign_ledger(_: Person, __: Clerk) -> LedgerPublic:
    return LedgerPublic(is_open=False)
""",
    "test_ledger.py": """\
import pytest

RULES = {
    "get_ledger": {"like": "admin", "accountant": 2},
    "close_ledger": {"like": "admin", "admin": 403, "accountant": 2},
    "sign_ledger": {"like": "admin", "accountant": 2},
}
SKIPS = {"close_ledger": "what is walked with an admin's requests is not for admins"}


@pytest.fixture
async def carol(sign_up):
    return await sign_up("Carol", "accountant")


async def test_who_keeps_the_ledger_reads_it(carol, admin, alice, client):
    statuses = [(await each.get("/ledger")).status_code for each in (carol, admin, alice, client)]
    assert statuses == [200, 200, 403, 401]


async def test_an_admin_is_not_an_accountant_unsaid(carol, admin, alice):
    answers = [await each.put("/ledger/closing") for each in (carol, admin, alice)]
    assert [answer.status_code for answer in answers] == [200, 403, 403]
    assert answers[1].json()["message"] == "only for the role accountant"


async def test_a_clerk_signs_in_person(carol, client):
    key = (await carol.post("/keys", json={"name": "Robot"})).json()["key"]
    machine = {"X-API-Key": key}
    assert (await client.get("/ledger", headers=machine)).status_code == 200
    assert (await client.post("/ledger/signature", headers=machine)).status_code == 403
    assert (await carol.post("/ledger/signature")).status_code == 200


async def test_an_admin_makes_a_member_an_accountant(admin, alice):
    answer = await admin.patch(f"/users/{alice.user_id}", json={"role": "accountant"})
    assert (answer.status_code, answer.json()["role"]) == (200, "accountant")
    assert (await alice.get("/ledger")).status_code == 200
""",
}


def add_role(copy: Copy) -> None:
    """Add a role: one line, and the change of its constraint, which Alembic writes."""
    roles = '"member", "admin"'
    copy.edit("features/users/models.py", f"Literal[{roles}]", f'Literal[{roles}, "accountant"]')
    copy.works("alembic", "upgrade", "head")
    copy.works("alembic", "revision", "--autogenerate", "-m", "accountants")
    (revision,) = (copy.root / "migrations/versions").glob("*_accountants.py")
    assert "'accountant'" in revision.read_text()
    assert "VALIDATE CONSTRAINT ck_users_role" in revision.read_text()
    copy.add_slice("ledger", LEDGER)


BASIC = {
    "handlers.py": '''\
from pydantic import SecretStr
from sqlalchemy import BigInteger, Boolean, String, bindparam, column, select, table

from kernel import PasswordVault, Principal, Resources, Rows

users = table(
    "users",
    column("id", BigInteger),
    column("email", String),
    column("password_hash", String),
    column("role", String),
    column("is_active", Boolean),
)
ACTIVE = select(users.c.id, users.c.password_hash, users.c.role).where(
    users.c.email == bindparam("email"), users.c.is_active
)


async def authenticate_password(
    resources: Resources, rows: Rows, credential: str
) -> Principal | None:
    """From `email:password` to whose it is."""
    email, _, password = credential.partition(":")
    found = await rows.fetch(ACTIVE, email=email.lower())
    password_hash = found[0]["password_hash"] if found else None
    if not await resources.get(PasswordVault).verify(password_hash, SecretStr(password)):
        return None
    return Principal(found[0]["id"], found[0]["role"])
''',
    "router.py": '''\
from base64 import b64decode
from collections.abc import Iterator, Sequence

from fastapi.requests import HTTPConnection
from fastapi.security import HTTPBasic

from features.basic.handlers import authenticate_password
from kernel import CredentialScheme


def _credentials(connection: HTTPConnection) -> Sequence[str]:
    return list(_read(connection.headers.getlist("authorization")))


def _read(headers: Sequence[str]) -> Iterator[str]:
    """Of `Basic …` (RFC 7617), the text; "" for what is none, and nobody's."""
    for header in headers:
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() == "basic":
            try:
                text = b64decode(encoded, validate=True).decode()
            except ValueError:
                text = ""
            yield text if text.isprintable() else ""


BASIC = CredentialScheme(HTTPBasic(), _credentials, authenticate_password)
''',
    "test_basic.py": """\
from base64 import b64encode

import pytest


def basic(text):
    return {"Authorization": f"Basic {b64encode(text.encode()).decode()}"}


@pytest.fixture
def headers(alice, password):
    return basic(f"alice@example.com:{password}")


async def test_the_scheme_is_in_the_document(client):
    document = (await client.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["HTTPBasic"] == {"type": "http", "scheme": "basic"}
    assert {"HTTPBasic": []} in document["paths"]["/users/me"]["get"]["security"]


async def test_a_password_is_a_credential_for_reads_and_writes(client, alice, headers):
    read = await client.get("/users/me", headers=headers)
    assert (read.status_code, read.json()["id"]) == (200, alice.user_id)
    key = headers | {"Idempotency-Key": "k1"}
    for _ in range(2):
        written = await client.patch("/users/me", json={"full_name": "Alicia"}, headers=key)
        assert (written.status_code, written.json()["version"]) == (200, 2)
    assert written.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    "text", ["alice@example.com:wrong", "alice@example.com", "a\\0b:c", "", ":", "\\u00e9:\\u00e9"]
)
async def test_what_is_no_password_is_refused(client, alice, text):
    assert (await client.get("/users/me", headers=basic(text))).status_code == 401


async def test_two_credentials_at_once_are_refused(client, alice, headers):
    own = [*headers.items()]
    for other in (
        ("Authorization", alice.headers["authorization"]),
        ("X-API-Key", "x"),
        own[0],
    ):
        assert (await client.get("/users/me", headers=[*own, other])).status_code == 401
""",
}


def add_credential(copy: Copy) -> None:
    """Take a further kind of credential, which every 401 then names."""
    copy.add_slice("basic", BASIC, is_mounted=False)
    imported = "from features.auth import router as auth\n"
    copy.edit("service.py", imported, f"{imported}from features.basic import router as basic\n")
    copy.edit("service.py", "keys.API_KEY]", "keys.API_KEY, basic.BASIC]")
    copy.edit_tests('"Bearer, APIKey"', '"Bearer, APIKey, Basic"')


GREETINGS = {
    "models.py": """\
from kernel import Dto


class GreetingPublic(Dto):
    user_id: int | None
""",
    "router.py": """\
from features.greetings.models import GreetingPublic
from kernel import Router, Viewer

router = Router(prefix="/greetings", tags=["greetings"])


@router.get("")
async def get_greeting(viewer: Viewer) -> GreetingPublic:
    return GreetingPublic(user_id=viewer.id if viewer else None)


@router.post("")
async def return_greeting(viewer: Viewer) -> GreetingPublic:
    return GreetingPublic(user_id=viewer.id if viewer else None)
""",
    "test_greetings.py": """\
import pytest

VIEWERS = {"like": "open", "expired": 401, "deactivated": 401}
RULES = {"get_greeting": VIEWERS, "return_greeting": VIEWERS}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_is_nobody_is_greeted_as_well(client, alice, method):
    for caller, user_id in ((client, None), (alice, alice.user_id)):
        answer = await caller.request(method, "/greetings")
        assert (answer.status_code, answer.json()) == (200, {"user_id": user_id})


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("header", [("Authorization", "Bearer x"), ("X-API-Key", "x")])
async def test_a_credential_that_is_not_valid_is_refused(client, method, header):
    answer = await client.request(method, "/greetings", headers=[header])
    assert answer.status_code == 401


async def test_the_document_asks_for_no_credential_but_takes_one(client):
    document = (await client.get("/openapi.json")).json()
    for operation in document["paths"]["/greetings"].values():
        assert operation["security"][0] == {}
        assert {"OAuth2PasswordBearer": []} in operation["security"]
        assert "401" in operation["responses"]
""",
}


def add_viewer(copy: Copy) -> None:
    """Answer those who are signed in, and all others as well."""
    copy.add_slice("greetings", GREETINGS)


DEPARTMENT = """\
    # With a default, the rows that are there have a value at once; new ones have to bring theirs.
    op.add_column(
        "users",
        sa.Column("department", sa.String(length=50), server_default="unknown", nullable=False),
    )
"""
ACCOUNTS = """\
@pytest.fixture
def account_columns() -> dict[str, str]:
    return {"department": "Kitchen"}
"""
DEPARTMENTS = """\
CAROL = {"email": "c@example.com", "full_name": "Carol", "password": "correct horse battery"}


async def test_an_account_needs_its_department(client):
    answer = await client.post("/users", json=CAROL)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "department"]
    answer = await client.post("/users", json=CAROL | {"department": "Orchard"})
    assert (answer.status_code, answer.json()["department"]) == (201, "Orchard")


async def test_test_accounts_have_theirs(alice, sign_up):
    assert (await alice.get("/users/me")).json()["department"] == "Kitchen"
    dora = await sign_up("Dora", department="Cellar")
    assert (await dora.get("/users/me")).json()["department"] == "Cellar"
"""


def add_account_column(copy: Copy) -> None:
    """Let every account have a department, which nobody gives it but who makes it."""
    models, tests = "features/users/models.py", "features/users/test_users.py"
    name = "    full_name: Line = Field(max_length=100)\n"
    copy.edit(models, f"{name}\n\nclass User(", f"{name}{FIELD}\n\nclass User(")
    shown = "    full_name: str\n    role: Role\n"
    copy.edit(models, shown, f"    department: str\n{shown}")
    copy.add_migration("department", DEPARTMENT, '    op.drop_column("users", "department")\n')
    copy.add_migration("no_default", *NO_DEFAULT)
    copy.edit(tests, '"password": "correct horse battery"}', f"{PASSWORD}{GIVEN}}}")
    copy.edit(tests, '        "full_name": "Carol",\n', f'        "full_name": "Carol",\n{SHOWN}')
    copy.works("ruff", "format", "--quiet", tests)
    invited, joining = "features/invitations/models.py", "features/invitations/test_invitations.py"
    column, field = '    column("role", String),\n', "    full_name: Line = Field(max_length=100)\n"
    copy.edit(invited, column, f'    column("department", String),\n{column}')
    copy.edit(invited, field, f"{field}{FIELD}")
    copy.edit(joining, '"password": "correct horse battery"}', f"{PASSWORD}{GIVEN}}}")
    copy.edit(joining, '"role": "admin"}', f'"role": "admin", {GIVEN}}}')
    resets = "features/password_resets/test_password_resets.py"
    copy.edit(resets, "(email, full_name, password_hash)", DEPARTED)
    copy.edit(resets, "VALUES (:email, 'x', 'none')", "VALUES (:email, 'x', 'x', 'none')")
    copy.works("ruff", "format", "--quiet", joining, resets)
    copy.write("conftest.py", f"{copy.read('conftest.py')}\n\n{ACCOUNTS}")
    copy.write("tests/test_departments.py", DEPARTMENTS)


FIELD = "    department: Line = Field(max_length=50)\n"
PASSWORD = '"password": "correct horse battery", '
GIVEN = '"department": "Kitchen"'
SHOWN = f"        {GIVEN},\n"
DEPARTED = "(email, department, full_name, password_hash)"
NO_DEFAULT = (
    '    op.alter_column("users", "department", server_default=None)\n',
    '    op.alter_column("users", "department", server_default="unknown")\n',
)


SIGN_IN = """\
async def test_the_document_tells_where_to_sign_in(client, alice, password):
    document = (await client.get("/openapi.json")).json()
    scheme = document["components"]["securitySchemes"]["OAuth2PasswordBearer"]
    url = scheme["flows"]["password"]["tokenUrl"]
    assert url == "session/auth/token"
    form = {"username": "alice@example.com", "password": password}
    token = (await client.post(f"/{url}", data=form)).json()["access_token"]
    answer = await client.get("/users/me", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["id"] == alice.user_id
"""


def move_sign_in(copy: Copy) -> None:
    """Mount the slice that signs in elsewhere; its tests, and others', know its address."""
    mounted = "app.include_router(auth.router"
    copy.edit("service.py", f"{mounted})", f'{mounted}, prefix="/session")')
    copy.edit_tests('"/auth/', '"/session/auth/')
    copy.write("tests/test_sign_in.py", SIGN_IN)
