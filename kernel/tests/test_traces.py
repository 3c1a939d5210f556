"""Which statements are known to leave nothing on their connection."""

import pytest

from kernel.data.driver import Connection
from kernel.data.traces import Trace, trace_of
from kernel.testing.operations import operations


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT items.id, count(*) FROM items WHERE items.id IN ($1, $2) GROUP BY items.id",
        "INSERT INTO items (title) VALUES ($1::VARCHAR) RETURNING items.id",
        'INSERT INTO "my items" (title) VALUES ($1::VARCHAR(200))',
        "UPDATE items SET title=$1, updated_at=now() WHERE items.id = $2",
        "WITH deep AS (SELECT 1), more AS (SELECT 2) SELECT coalesce(max(x), 0) FROM deep",
        "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = excluded.a",
        "SELECT sum(x) FILTER (WHERE x > 0) OVER (PARTITION BY y ORDER BY z) FROM t",
        "SELECT pg_advisory_xact_lock($1)",
        "SET LOCAL statement_timeout = '1s'",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SAVEPOINT sa_savepoint_1",
        "ROLLBACK TO SAVEPOINT sa_savepoint_1",
    ],
)
def test_what_ends_with_its_transaction_is_let_through(sql):
    assert trace_of(sql) is Trace.NONE


@pytest.mark.parametrize(
    ("sql", "trace"),
    [
        *(
            (sql, Trace.SESSION)
            for sql in (
                "SET statement_timeout = '1s'",
                "set session authorization bob",
                "RESET ALL",
                "SELECT set_config('a.b', '1', false)",
                "SELECT \"set_config\"('a.b', '1', false)",
                "SELECT pg_catalog.set_config('a.b', '1', false)",
                "SELECT pg_advisory_lock (1)",
                "SELECT pg_try_advisory_lock\n(1)",
                "SELECT pg_advisory_lock/**/(1)",
                "SELECT pg_advisory_lock -- a comment\n(1)",
                "SELECT 1; SET a.b = '1'",
                "SELECT 1 INTO TEMP copy",
                "SELECT 1 INTO pg_temp.copy",
                "SELECT my_function(1)",
                "INSERT INTO t (a) SELECT pg_advisory_lock(1)",
                "UPDATE t SET a = set_config('a.b', '1', false)",
                "CREATE TEMP TABLE t (id int)",
                "LISTEN somebody",
                "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
                "DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$",
                "CALL a_procedure()",
                "EXECUTE p",
                "SELECT 'a; COMMIT'; SET a.b = '1'",
                "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
            )
        ),
        *(
            (sql, Trace.LASTING)
            for sql in (
                "PREPARE p AS SELECT 1",
                "DEALLOCATE ALL",
                "DISCARD PLANS",
                "LOAD 'auto_explain'",
                "SELECT 1; DISCARD ALL",
            )
        ),
        *(
            (sql, Trace.CONTROL)
            for sql in (
                "BEGIN",
                "start transaction read write",
                "COMMIT AND CHAIN",
                "END",
                "/* a comment */ ROLLBACK AND CHAIN",
                "-- a comment\nABORT",
                "ROLLBACK; BEGIN",
                "SELECT ';'; COMMIT",
                "PREPARE TRANSACTION 'x'",
            )
        ),
    ],
)
def test_a_statement_that_may_leave_state_is_recognised(sql, trace):
    assert trace_of(sql) is trace


async def test_no_statement_of_the_service_costs_a_reset(app, admin, sampler, monkeypatch):
    """A reset is one more wait for the database: what the service sends is known to need none."""
    left = []
    clean = Connection.clean

    async def note(connection):
        left.append(connection.has_traces)
        await clean(connection)

    monkeypatch.setattr(Connection, "clean", note)
    for operation in operations(app):
        if isinstance(operation.hook("SKIPS"), str):
            continue
        key = {} if operation.method == "GET" else {"Idempotency_Key": operation.name}
        assert (await sampler.call(operation, **key)).is_success
    for url in ("/peelings?q=soup&order=title", "/users?q=adm&is_active=true", "/keys?limit=1"):
        assert (await admin.get(url)).status_code == 200
    assert len(left) > 10
    assert not any(left)
