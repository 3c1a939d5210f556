RULES = {
    "get_liveness": "open",
    "get_readiness": "open",
}
COSTS = {"get_liveness": 0, "get_readiness": 1}


async def test_liveness_asks_no_database(client):
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert '"0 queries"' in answer.headers["server-timing"]


async def test_readiness_asks_the_database(client):
    for path in ("/readyz", "/healthz"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert '"1 queries"' in answer.headers["server-timing"]


async def test_a_service_ahead_of_its_schema_is_not_ready(client, sql):
    needed = await sql.fetchval("SELECT version_num FROM alembic_version")
    await sql.execute("UPDATE alembic_version SET version_num = '0000'")
    try:
        answer = await client.get("/readyz")
    finally:
        await sql.execute("UPDATE alembic_version SET version_num = $1", needed)
    assert answer.status_code == 503
    assert answer.json()["message"] == "the database's schema is behind"
    assert int(answer.headers["retry-after"]) >= 1
