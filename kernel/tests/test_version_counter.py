"""The database counts versions, and migrations make what counts them."""

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, inspect, update
from sqlalchemy.orm.exc import StaleDataError

import kernel.dev.version_triggers  # noqa: F401  # it registers itself
from kernel import open_session
from kernel.dev.scaffold.migration import Writer
from kernel.testing import migrations
from kernel.testing.history import make_tables, query, tables_of_tests
from kernel.tests.autogenerate import connect, steps_of_orders
from kernel.tests.peelings.models import Peeling

MAKE = "CREATE TRIGGER count_version BEFORE UPDATE ON peeled_orders FOR EACH ROW"
DROP = "DROP TRIGGER IF EXISTS count_version ON peeled_orders"
TABLE = "CREATE TABLE peeled_orders (id int PRIMARY KEY, version int NOT NULL)"


def steps(connection, columns):
    """What autogenerate writes, there and back, when an order has these columns."""
    metadata = MetaData()
    if columns:
        key = Column("id", Integer, primary_key=True)
        Table(
            "peeled_orders",
            metadata,
            key,
            *[Column(name, Integer, nullable=False) for name in columns],
        )
    return steps_of_orders(connection, metadata)


@pytest.fixture
def compare(database):
    async def compare(columns, *before):
        async with database() as url, connect(url) as connection:
            for each in before:
                await connection.exec_driver_sql(each)
            return await connection.run_sync(steps, columns)

    return compare


COUNTED = f"{MAKE} EXECUTE FUNCTION count_version()"


async def test_a_new_table_gets_its_trigger(compare):
    there, back = await compare(["version"])
    assert there.index("create_table") < there.index(MAKE)
    assert back.index(DROP) < back.index("drop_table")


async def test_a_table_that_is_there_without_one_gets_it(compare):
    there, back = await compare(["version"], TABLE)
    assert (MAKE in there, DROP in back, "table(" in there + back) == (True, True, False)


async def test_a_table_that_has_one_needs_no_step(compare):
    there, back = await compare(["version"], TABLE, COUNTED)
    assert "count_version" not in there + back


async def test_a_trigger_goes_with_the_version_and_with_the_table(compare):
    there, back = await compare([], TABLE, COUNTED)
    assert (DROP in there, MAKE in back) == (True, True)
    there, back = await compare(None, TABLE, COUNTED)
    assert there.index(DROP) < there.index("drop_table")
    assert back.index("create_table") < back.index(MAKE)


async def test_a_table_without_a_version_has_none(compare):
    there, back = await compare(["size"])
    assert "count_version" not in there + back


def test_a_feature_that_is_removed_can_come_back_with_its_trigger():
    made = [type(each).__name__ for each in Writer("drop", ["peelings"])._create()]
    assert made[:2] == ["CreateTableOp", "MakeTrigger"]


async def test_a_table_that_nobody_counts_is_told(database):
    async with database() as url:
        await make_tables(url, tables_of_tests())
        await migrations.test_the_database_counts_every_version(url)
        await query(url, "ALTER TABLE peelings DISABLE TRIGGER count_version")
        await query(url, "DROP TRIGGER count_version ON users")
        with pytest.raises(AssertionError) as failure:
            await migrations.test_the_database_counts_every_version(url)
    assert "['peelings', 'users']: uv run alembic upgrade head && uv run alembic" in str(failure)


async def test_a_bulk_update_by_the_orm_leaves_its_rows_with_their_new_version(app, alice, sql):
    """As SQLAlchemy documents it, what the database has changed is read anew when it is needed."""
    await alice.post("/peelings", json={"title": "one"})
    async with open_session(app) as session:
        peeling = await session.get(Peeling, 1)
        await session.exec(update(Peeling).values(title="two"))
        assert "version" in inspect(peeling).expired_attributes
        await session.refresh(peeling)
        assert peeling.version == 2
        peeling.title = "three"
        await session.flush()
        assert peeling.version == 3
    assert await sql.fetchval("SELECT version FROM peelings") == 3


async def test_a_batch_of_changes_counts_each_row_once(app, alice, sql):
    for title in "abc":
        await alice.post("/peelings", json={"title": title})
    async with open_session(app) as session:
        peelings = [await session.get(Peeling, number) for number in (1, 2, 3)]
        for peeling in peelings:
            peeling.title += "x"
        await session.flush()
        assert [peeling.version for peeling in peelings] == [2, 2, 2]
    rows = await sql.fetch("SELECT title, version FROM peelings ORDER BY id")
    assert [tuple(row) for row in rows] == [("ax", 2), ("bx", 2), ("cx", 2)]


async def test_a_version_that_somebody_sets_is_not_believed(sql, alice):
    await alice.post("/peelings", json={"title": "one"})
    for version in (1, 99, -1):
        before = await sql.fetchval("SELECT version FROM peelings")
        await sql.execute("UPDATE peelings SET version = $1", version)
        assert await sql.fetchval("SELECT version FROM peelings") == before + 1


async def test_a_row_that_somebody_changes_meanwhile_is_not_recounted(app, alice, sql):
    """What the session has changed itself beside the ORM is its own, and nobody else's is."""
    await alice.post("/peelings", json={"title": "one"})
    other = update(Peeling).where(Peeling.id == 2).values(title="other")
    async with open_session(app) as session:
        peeling = await session.get(Peeling, 1)
        await sql.execute("UPDATE peelings SET title = 'theirs'")
        await session.fetch(other)
        peeling.title = "mine"
        with pytest.raises(StaleDataError):
            await session.flush()
        await session.rollback()
    assert await sql.fetchval("SELECT title FROM peelings") == "theirs"
