import pytest

RULES = {
    "get_liveness": "open",
    "get_readiness": "open",
}
COSTS = {"get_liveness": 0, "get_readiness": 1}


async def test_liveness_asks_no_database(client):
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert '"0 queries"' in answer.headers["server-timing"]


async def test_readiness_asks_the_database(client, app, sql):
    for path in ("/readyz", "/healthz"):
        answer = await client.get(path)
        applied = await sql.fetchval("SELECT version_num FROM alembic_version")
        expected = {"status": "ok", "version": app.version, "revision": applied}
        assert (answer.status_code, answer.json()) == (200, expected)
        assert '"1 queries"' in answer.headers["server-timing"]


@pytest.fixture
async def revision(sql):
    """Say which one the database has."""
    applied = await sql.fetchval("SELECT version_num FROM alembic_version")
    yield lambda name: sql.execute("UPDATE alembic_version SET version_num = $1", name)
    await sql.execute("UPDATE alembic_version SET version_num = $1", applied)


async def test_a_service_ahead_of_its_schema_is_not_ready(client, revision):
    await revision("0001")
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["message"] == "the database's schema is behind"
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_service_whose_successor_has_migrated_is_ready(client, revision):
    await revision("20991231T235959_next")
    assert (await client.get("/readyz")).status_code == 200


async def test_a_service_is_not_ready_on_another_ones_database(client, revision, sql):
    await revision("20991231T235959_other")
    await sql.execute("ALTER TABLE users RENAME full_name TO name")
    try:
        assert (await client.get("/readyz")).status_code == 503
    finally:
        await sql.execute("ALTER TABLE users RENAME name TO full_name")
