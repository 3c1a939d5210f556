"""The walk over query plans fails where an index is missing, and says which one."""

import pytest

from kernel.testing import query_plans

recorded = query_plans.recorded  # a fixture


@pytest.fixture
def list_peelings(walk):
    (operation,) = [each for each in walk.operations if each.name == "list_peelings"]
    return operation


async def walks(operation, app, sampler, alice, recorded):
    walk = query_plans.test_an_index_serves_every_filter_and_order
    await walk(app, sampler, alice, recorded, operation)


@pytest.mark.parametrize(
    ("index", "told", "advice"),
    [
        (
            "ix_peelings_title_search",
            "with q=abcdefgh, for an admin",
            'search_index("peelings", COLUMN)',
        ),
        (
            "ix_peelings_title_id",
            "with order=title, for an admin: no index serves it at a million rows",
            'Index(None, "title", "id")',
        ),
        (
            "ix_peelings_owner_id_title_id",
            "with order=title, for a member: no index serves it",
            'Index(None, "owner_id", "title", "id")',
        ),
    ],
)
async def test_a_missing_index_is_told(
    app, sampler, alice, sql, recorded, list_peelings, index, told, advice
):
    await walks(list_peelings, app, sampler, alice, recorded)
    definition = await sql.fetchval(f"SELECT pg_get_indexdef('{index}'::regclass)")
    await sql.execute(f"DROP INDEX {index}")
    try:
        with pytest.raises(AssertionError) as failure:
            await walks(list_peelings, app, sampler, alice, recorded)
    finally:
        await sql.execute(definition)
    assert "GET /peelings (list_peelings)" in str(failure.value)
    assert told in str(failure.value)
    assert f"such as {advice}" in str(failure.value)


async def test_the_walk_leaves_no_statistics(app, sampler, alice, sql, recorded, list_peelings):
    await walks(list_peelings, app, sampler, alice, recorded)
    rows = await sql.fetchval("SELECT max(reltuples) FROM pg_class WHERE relkind = 'r'")
    assert rows < query_plans.MILLION
