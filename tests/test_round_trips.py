"""What a request costs: how often the service waits for the database.

Counted on the wire, so that nothing can hide: no ping, no reset, no BEGIN of a library's own.
"""

import asyncio
import struct
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from features.kernel.settings import ROOT
from tests.app import create_app
from tests.callers import PASSWORD

# Exactly, for each slice. A higher number is a slower service: think twice before writing it down.
COSTS = {
    "health": [("GET /livez", None, 0), ("GET /readyz", None, 1)],
    "auth": [("POST /auth/token", {"username": "admin@example.com", "password": PASSWORD}, 8)],
    "keys": [("POST /keys", {"name": "Robot"}, 4), ("GET /keys", None, 2)],
    "users": [
        ("POST /users", {"email": "{n}@b.org", "full_name": "Eve", "password": PASSWORD}, 3),
        ("GET /users", None, 2),
        ("GET /users/me", None, 2),
        ("GET /users/{id}", None, 2),
        ("PATCH /users/me", {"full_name": "Name {n}"}, 5),
        ("PATCH /users/{id}", {"full_name": "Name {n}"}, 5),
        ("DELETE /users/{id}", None, 5),
    ],
    "items": [
        ("POST /items", {"title": "Soup"}, 4),
        ("GET /items", None, 2),
        ("GET /items/{id}", None, 2),
        ("PATCH /items/{id}", {"title": "Title {n}"}, 5),
        ("DELETE /items/{id}", None, 5),
    ],
}
ROWS = {
    "users": "INSERT INTO users (email, full_name, password_hash)"
    " VALUES ($1 || '@example.com', 'Other', 'none') RETURNING id",
    "items": "INSERT INTO items (title, owner_id) SELECT $1, min(id) FROM users RETURNING id",
}
SLICES = [name for name in COSTS if (ROOT / "features" / name).exists()]


class Tap:
    """A port that leads to the server, and counts how often its clients wait for an answer."""

    # After Sync, after a simple Query, and after Flush, which asks for the answers so far.
    WAITS = (b"S", b"Q", b"H")

    def __init__(self, url: str) -> None:
        self.waits = 0
        self.url = url
        self.socket = f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"

    @asynccontextmanager
    async def open(self):
        async with await asyncio.start_server(self.accept, "127.0.0.1", 0) as listener:
            host, port = listener.sockets[0].getsockname()
            name = urlsplit(self.url).path
            self.url = f"postgresql://postgres@{host}:{port}{name}?sslmode=disable"
            yield self

    async def accept(self, client, to_client):
        server, to_server = await asyncio.open_unix_connection(self.socket)
        await asyncio.gather(self.forward(client, to_server), back(server, to_client))

    async def forward(self, client, to_server):
        # A message is its kind, its length, and the rest (PostgreSQL manual, "Message Formats");
        # the first one has no kind.
        kind = b""
        try:
            while True:
                length = await client.readexactly(4)
                rest = await client.readexactly(struct.unpack("!i", length)[0] - 4)
                self.waits += kind in self.WAITS
                to_server.write(kind + length + rest)
                kind = await client.readexactly(1)
        except asyncio.IncompleteReadError:
            to_server.close()


async def back(server, to_client):
    while data := await server.read(65_536):
        to_client.write(data)
    to_client.close()


@pytest.fixture(scope="module")
async def tap(database_url):
    async with Tap(database_url).open() as tap:
        yield tap


@pytest.fixture(scope="module")
async def running_app(settings, tap):
    """The service, with the tap between it and its database."""
    app = create_app(settings.model_copy(update={"database_url": SecretStr(tap.url)}))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def cost(tap, admin, sql):
    """Count what a request waits for, once its connections and statements are warm."""

    async def cost(operation, body=None):
        method, path = operation.split()
        name = path.split("/")[1]
        waits = []
        for n in map(str, range(4)):
            row = await sql.fetchval(ROWS[name], n) if "{id}" in path else None
            words = {key: value.format(n=n) for key, value in (body or {}).items()}
            content = {"data" if name == "auth" else "json": words or None}
            before = tap.waits
            answer = await admin.request(method, path.format(id=row), **content)
            waits.append(tap.waits - before)
            assert answer.is_success, answer.text
        assert waits[-2] == waits[-1]
        return waits[-1]

    return cost


@pytest.mark.parametrize(
    ("operation", "body", "waits"),
    [pytest.param(*each, id=each[0]) for name in SLICES for each in COSTS[name]],
)
async def test_an_operation_waits_no_more_often_than_this(cost, operation, body, waits):
    assert await cost(operation, body) == waits


@pytest.mark.parametrize("name", [name for name in SLICES if name in ROWS])
async def test_a_list_of_many_costs_what_a_list_of_one_costs(cost, sql, admin, name):
    if name != "users":  # where the admin is the first
        await sql.fetchval(ROWS[name], "first")
    assert await length(admin, name) == 1
    few = await cost(f"GET /{name}")
    for n in range(29):
        await sql.fetchval(ROWS[name], f"more{n}")
    assert await length(admin, name) == 30
    assert await cost(f"GET /{name}") == few


async def length(caller, name):
    return len((await caller.get(f"/{name}")).json()["items"])


async def test_the_tap_counts_each_wait(tap):
    connection = await asyncpg.connect(tap.url)

    async def waits(run):
        before = tap.waits
        await run("SELECT 1")
        return tap.waits - before

    assert await waits(connection.fetchval) == 2  # the first time, it is prepared
    assert await waits(connection.fetchval) == 1
    assert await waits(connection.execute) == 1
    async with connection.transaction():
        assert await waits(connection.fetchval) == 1
    before = tap.waits
    async with connection.transaction():
        await connection.fetchval("SELECT 1")
    assert tap.waits - before == 3
    await connection.close()
