"""On which databases a service is ready."""

import asyncpg
import pytest
from pydantic import SecretStr

# As another program's function would, it stands before PostgreSQL's own.
IN_RECOVERY = """
    CREATE FUNCTION pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true';
    ALTER DATABASE {} SET search_path = public, pg_catalog
"""
FULL = """
    CREATE FUNCTION pg_export_snapshot() RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'could not write to file' USING ERRCODE = 'disk_full'; END $$;
    ALTER DATABASE {} SET search_path = public, pg_catalog
"""
DATABASES = {
    "its own": (None, 200, "ok"),
    "a later version's": ("UPDATE alembic_version SET version_num = 'later'", 200, "ok"),
    "a later version's, with more": (
        "UPDATE alembic_version SET version_num = 'later'; ALTER TABLE users ADD phone text",
        200,
        "ok",
    ),
    "a branch that is merged later": (
        "INSERT INTO alembic_version VALUES ('branch')",
        200,
        "ok",
    ),
    "an earlier one's": (
        "UPDATE alembic_version SET version_num = '0001'",
        503,
        "the database's schema is behind",
    ),
    "a service's with the same names": (
        "UPDATE alembic_version SET version_num = 'x'; ALTER TABLE users DROP COLUMN role CASCADE",
        503,
        "the database's schema lacks what this version needs",
    ),
    "another service's": (
        """DROP SCHEMA public CASCADE; CREATE SCHEMA public;
        CREATE TABLE alembic_version (version_num) AS VALUES ('x')""",
        503,
        "the database's schema lacks what this version needs",
    ),
    "nobody's": ("DROP TABLE alembic_version", 503, "the database's schema is behind"),
    "a standby's": (IN_RECOVERY, 503, "the database takes no writes"),
    "a read-only one": (
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        503,
        "the database takes no writes",
    ),
    "a read-only one for the service": (
        "ALTER ROLE app IN DATABASE {} SET default_transaction_read_only = on",
        503,
        "the database takes no writes",
    ),
    "a full disk's": (FULL, 503, "the database takes no writes"),
}


@pytest.mark.parametrize(("statement", "status", "told"), DATABASES.values(), ids=DATABASES)
async def test_a_service_is_ready_on_what_it_can_serve_on(
    serve, database, log, statement, status, told
):
    async with database() as url:
        connection = await asyncpg.connect(url)
        name = await connection.fetchval("SELECT current_database()")
        if statement:
            await connection.execute(statement.replace("{}", name))
        await connection.close()
        async with serve(database_url=SecretStr(url)) as client:
            answers = [await client.get("/readyz") for _ in range(2)]
    for answer in answers:
        body = answer.json()
        assert (answer.status_code, body.get("message", body.get("status"))) == (status, told)
        assert ("retry-after" in answer.headers) == (status == 503)
    errors = [line["message"] for line in log.lines("ERROR")]
    assert len(errors) == ("lacks" in told), errors
    assert all("users.role" in error or "and more" in error for error in errors), errors
