"""What is read on a replica, and what on the primary: here the replica hears of nothing."""

from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from sqlalchemy import Integer, column, table, text
from sqlmodel import select

from kernel.http.dependencies import Reader, Service
from kernel.http.router import Router

NEW = table("peeled_table")
PLAIN = select(column("n", Integer)).select_from(NEW)


def cases():
    router = Router(prefix="/peels", tags=["peels"])

    @router.get("/here")
    @router.post("/here")
    @router.put("/here")
    @router.patch("/here")
    @router.delete("/here")
    async def here(reader: Reader, service: Service) -> dict[str, bool]:
        return {"is_primary": reader is service.primary}

    @router.get("/plain")
    async def plain(reader: Reader) -> dict[str, int]:
        return {"count": len(await reader.fetch(PLAIN))}

    @router.get("/text")
    async def by_text(reader: Reader) -> dict[str, int]:
        return {"count": len(await reader.fetch(text("SELECT n FROM peeled_table")))}

    @router.get("/mistake")
    async def mistake(reader: Reader) -> dict[str, int]:
        return {"count": len(await reader.fetch(text("SELECT m FROM peeled_table")))}

    @router.get("/zero")
    async def zero(reader: Reader) -> dict[str, int]:
        return {"count": len(await reader.fetch(text("SELECT 1 / 0 AS n")))}

    return router


@pytest.fixture
async def client(mount, database, alice):
    """Alice, of whom the replica knows nothing."""
    async with replicated(mount, database) as client:
        client.headers.update(alice.headers)
        yield client


@asynccontextmanager
async def replicated(mount, database):
    async with (
        database() as replica,
        mount(cases(), read_database_url=SecretStr(replica)) as client,
    ):
        yield client


NEWS = ["no-cache", "No-Cache", "max-age=0, no-cache", "max-age=0,no-cache"]


@pytest.mark.parametrize("directives", NEWS)
async def test_a_client_that_asks_for_news_reads_its_own_write(client, directives):
    made = await client.post("/peelings", json={"title": "new"})
    place = f"/peelings/{made.json()['id']}"
    assert (await client.get(place)).status_code == 404
    answer = await client.get(place, headers={"Cache-Control": directives})
    assert (answer.status_code, answer.json()) == (200, made.json())


@pytest.mark.parametrize("directives", ["max-age=0", "no-store", "no-cache-x", 'x="no-cache"', ""])
async def test_another_directive_does_not_spare_the_replica(client, directives):
    answer = await client.get("/peels/here", headers={"Cache-Control": directives})
    assert answer.json() == {"is_primary": False}


async def test_a_header_in_two_lines_is_one(client):
    lines = [*client.headers.multi_items(), ("Cache-Control", "max-age=0")]
    lines.append(("Cache-Control", "no-cache"))
    assert (await client.get("/peels/here", headers=lines)).json() == {"is_primary": True}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_write_reads_on_the_primary(client, method):
    assert (await client.request(method, "/peels/here")).json() == {"is_primary": True}


async def test_a_get_reads_on_the_replica(client):
    assert (await client.get("/peels/here")).json() == {"is_primary": False}


@pytest.fixture
async def peeled_table(sql):
    await sql.execute("CREATE TABLE peeled_table AS SELECT 1 AS n")
    yield
    await sql.execute("DROP TABLE peeled_table")


@pytest.mark.parametrize("path", ["/peels/plain", "/peels/text"])
async def test_what_a_replica_does_not_know_yet_is_read_on_the_primary(client, peeled_table, path):
    reader = client.app.state.resources.reader
    for number in range(1, 4):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"count": 1})
        assert (reader.diverted, reader.is_away) == (number, False)


@pytest.mark.parametrize("path", ["/peels/mistake", "/peels/zero"])
async def test_a_wrong_query_is_a_500_on_the_replica_too(client, peeled_table, log, path):
    assert (await client.get(path)).status_code == 500
    [line] = log.lines("ERROR")
    assert "peeled_table" in str(line) or "22012" in str(line)


async def test_who_reads_on_the_primary_meanwhile_is_counted(mount, alice, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("kernel.data.readers.time.monotonic", lambda: now)
    dead = SecretStr("postgresql://app@127.0.0.1:1/app")
    async with mount(cases(), read_database_url=dead) as client:
        client.headers.update(alice.headers)
        reader = client.app.state.resources.reader
        seen = []
        for _ in range(3):
            assert (await client.get("/peelings")).status_code == 200
            seen.append((reader.diverted, reader.is_away))
        now += 5
        assert not reader.is_away
    assert seen == [(1, True), (2, True), (3, True)]
