"""The walk over query plans fails where an index is missing, and says which one."""

from dataclasses import replace

import pytest

from kernel.testing import query_plans

recorded = query_plans.recorded  # a fixture


@pytest.fixture
def list_peelings(walk):
    (operation,) = [each for each in walk.operations if each.name == "list_peelings"]
    return operation


walk_over_plans = query_plans.test_an_index_serves_every_filter_and_order


async def walks(operation, app, sampler, alice, recorded):
    await walk_over_plans(app, sampler, alice, recorded, operation)


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


async def test_a_list_whose_rows_no_post_makes_is_walked_too(
    app, sampler, alice, sql, recorded, list_peelings
):
    path = list_peelings.path
    documented = {"get": list_peelings.document["paths"][path]["get"]}
    paths = {**list_peelings.document["paths"], path: documented}
    alone = replace(list_peelings, document={**list_peelings.document, "paths": paths})
    ((chooses,),) = [mark.args for mark in walk_over_plans.pytestmark if mark.name == "walk"]
    assert (chooses(alone), alone.is_list) == (True, False)
    await walks(alone, app, sampler, alice, recorded)
    definition = await sql.fetchval("SELECT pg_get_indexdef('ix_peelings_title_id'::regclass)")
    await sql.execute("DROP INDEX ix_peelings_title_id")
    try:
        with pytest.raises(AssertionError, match="with order=title, for an admin"):
            await walks(alone, app, sampler, alice, recorded)
    finally:
        await sql.execute(definition)


async def test_a_filter_that_no_plan_is_read_of_fails(
    app, sampler, alice, recorded, list_peelings, monkeypatch
):
    monkeypatch.setattr(query_plans, "LONG", "x" * 101)  # as a value that its field refuses
    with pytest.raises(AssertionError, match="answered 422"):
        await walks(list_peelings, app, sampler, alice, recorded)


async def test_the_walk_leaves_no_statistics(app, sampler, alice, sql, recorded, list_peelings):
    await walks(list_peelings, app, sampler, alice, recorded)
    rows = await sql.fetchval("SELECT max(reltuples) FROM pg_class WHERE relkind = 'r'")
    assert rows < query_plans.MILLION
