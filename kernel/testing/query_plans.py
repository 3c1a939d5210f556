"""The walk over query plans: an index serves every filter and every order of a list.

The plans are those of a million rows, which are not made: the server gets the statistics that it
would have of them (PostgreSQL manual §9.28.9). A plan has to be cheap when almost no row matches,
when some do, and when a third of all rows do.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import ClauseElement, Column, Executable, Select, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import iterate

from kernel.data.independent import open_session
from kernel.data.keysets import LIMIT
from kernel.data.paging import Pager
from kernel.data.session import WriteSession
from kernel.data.snapshots import Rows
from kernel.testing.asking import mismatch
from kernel.testing.callers import Caller
from kernel.testing.operations import Operation
from kernel.testing.pages import orders
from kernel.testing.requests import Request
from kernel.testing.sampler import REFUSED, Sampler
from kernel.testing.walking import every

PAGING = {"limit", "cursor", "order"}
MILLION = 1_000_000
PAGES = ("seq", "random")
# A plan's cost is the number of rows that it reads; all else costs almost nothing. Pages are free,
# since a table and its indexes have as many as earlier tests have left.
UNITS = ("SET LOCAL cpu_tuple_cost = 1", *(f"SET LOCAL {of}_page_cost = 0" for of in PAGES))
MOST_ROWS = 2000  # for a page of 51, with what belongs to its rows
LONG = "abcdefgh"  # the text of a search
# By `pg_type.typcategory`: a value below all that the queries ask for, and one above.
EXTREMES = {
    "N": ("-32768", "32767"),
    "D": ("1970-01-01", "8999-12-31"),
    "S": ("", "zzzzzzzz"),
    "B": ("f", "t"),
    "U": ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
}
# Which of the extremes almost all rows have, and how many distinct values there are.
WORLDS = {
    "few rows below": (1, 50_000),
    "few rows above": (0, 50_000),
    "ten thousand rows of each value": (None, 100),
    "a third of all rows of each value": (None, 3),
}
# In this world no index has the rows of several values in one order, so those queries are left out.
SOME = "ten thousand rows of each value"
SIZES = """
    SELECT pg_restore_relation_stats('schemaname', 'public', 'relname', relname::text,
        'relpages', greatest(1, pg_relation_size(oid) / 8192)::int, 'reltuples', :count ::real)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
"""
# An empty table without a page costs nothing, whatever its statistics say. So each gets a row with
# the defaults of its columns, and without the constraints that these would violate.
EMPTY = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        AND pg_relation_size(oid) = 0
"""
ADD_ROWS = f"""
    DO $$ DECLARE name text; change text; BEGIN
        FOR name IN {EMPTY} LOOP
            FOR change IN
                SELECT format('DROP CONSTRAINT %I', conname) FROM pg_constraint
                    WHERE conrelid = quote_ident(name)::regclass AND contype IN ('c', 'f')
                UNION ALL SELECT format('ALTER %I DROP NOT NULL', attname) FROM pg_attribute
                    WHERE attrelid = quote_ident(name)::regclass AND attnum > 0 AND attnotnull
                        AND NOT EXISTS (SELECT FROM pg_index
                            WHERE indrelid = attrelid AND indisprimary AND attnum = ANY (indkey))
            LOOP
                EXECUTE format('ALTER TABLE %I %s', name, change);
            END LOOP;
            BEGIN
                EXECUTE format('INSERT INTO %I DEFAULT VALUES', name);
            EXCEPTION WHEN not_null_violation THEN NULL; -- its key has no default
            END;
        END LOOP;
    END $$
"""
# Removes what an earlier ANALYZE has found, such as a correlation, which COLUMNS does not replace.
CLEAR_STATISTICS = """
    SELECT pg_clear_attribute_stats('public', relname::text, attname::text, false)
    FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
        AND NOT attisdropped
"""
COLUMNS = """
    SELECT pg_restore_attribute_stats('schemaname', 'public', 'relname', relname::text,
        'attname', attname::text, 'inherited', false, 'avg_width', 8,
        'null_frac', CASE WHEN known IS NULL THEN 0.3 ELSE 0.00002 END::real,
        'n_distinct', CASE WHEN is_unique THEN -1 WHEN is_bool THEN 2 ELSE :distinct END::real,
        'most_common_vals', '{"' || known || '"}',
        'most_common_freqs', CASE WHEN known IS NOT NULL THEN '{0.99996}' END::real[])
    FROM (
        SELECT relname, attname, is_unique, typname = 'bool' AS is_bool,
            CASE WHEN NOT is_unique THEN known END AS known
        FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid JOIN pg_type t ON t.oid = atttypid
        LEFT JOIN (SELECT * FROM jsonb_each_text(:values ::jsonb)) e(kind, known)
            ON kind = typcategory AND typname NOT IN ('time', 'timetz')
        CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM pg_index i
            WHERE indrelid = c.oid AND indisunique AND indnkeyatts = 1 AND indkey[0] = attnum
        )) u(is_unique)
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
            AND NOT attisdropped
    ) columns
"""


class Explain(Executable, ClauseElement):
    """The server's plan for a statement, as JSON."""

    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Explain, compiler: Any, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **options)}"


@dataclass(frozen=True)
class Sent:
    """A statement that a page was read with, for whom and for what query, and its values."""

    caller: str
    query: dict[str, Any]
    statement: Select[Any]
    values: dict[str, Any]

    @property
    def has_several(self) -> bool:
        """Whether it asks for one of several values."""
        return any(isinstance(value, list) for value in self.query.values())

    @property
    def columns(self) -> str:
        """The columns of its condition and then of its order: those of the index that serves it."""
        clauses = [self.statement.whereclause, *self.statement._order_by_clauses]
        nodes = [node for clause in clauses if clause is not None for node in iterate(clause)]
        names = [node.name for node in nodes if isinstance(node, Column)]
        return ", ".join(f'"{name}"' for name in dict.fromkeys(names))


class Recorder(Rows):
    """Passes statements on to other rows, and records each with its values."""

    def __init__(self, rows: Rows, recorded: list[tuple[Any, dict[str, Any]]]) -> None:
        self._rows, self._recorded = rows, recorded

    async def fetch(self, statement: Any, /, **values: Any) -> Sequence[Any]:
        self._recorded.append((statement, values | {LIMIT: 51}))
        return await self._rows.fetch(statement, **values)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """The statements that pages are read with, and their values."""
    recorded: list[tuple[Any, dict[str, Any]]] = []
    fetch: Any = Pager.fetch

    async def record(pager: Pager, rows: Rows, *arguments: Any, **values: Any) -> Any:
        return await fetch(pager, Recorder(rows, recorded), *arguments, **values)

    monkeypatch.setattr(Pager, "fetch", record)
    return recorded


def has_pages(operation: Operation) -> bool:
    return operation.has_pages


def queries(operation: Operation) -> Iterator[dict[str, Any]]:
    """The query of each order and of each filter of the list."""
    parameters = operation.parameters("query").items()
    filters = {name: schema for name, schema in parameters if name not in PAGING}
    for order in orders(operation):
        yield {"order": order} if order else {}
    for name, schema in filters.items():
        value = LONG if name == "q" else operation.value(schema)
        yield {name: value}
        if schema.get("type") == "boolean":
            yield {name: not value}


async def read_pages(caller: Caller, listing: Request, query: dict[str, Any]) -> httpx.Response:
    """Read the first page of one row, and the next one; return the answer to the first."""
    params = {**listing.params, **query, "limit": 1}
    answer = await caller.get(listing.path, params=params)
    if answer.is_success and (cursor := answer.json()["next_cursor"]):
        await caller.get(listing.path, params=params | {"cursor": cursor})
    return answer


async def plan_of(session: WriteSession, sent: Sent) -> dict[str, Any]:
    (row,) = await session.fetch(Explain(sent.statement), **sent.values)
    (value,) = row
    (explained,) = json.loads(value) if isinstance(value, str) else value
    plan: dict[str, Any] = explained["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> Iterator[str]:
    """The nodes of a plan in the words of EXPLAIN, the outermost first."""
    named = (plan.get("Index Name"), plan.get("Relation Name"), plan.get("Filter"))
    details = plan.get("Sort Key") or [detail for detail in named if detail]
    yield f"{plan['Node Type']} ({', '.join(details)})" if details else plan["Node Type"]
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


@every(has_pages)
async def test_an_index_serves_every_filter_and_order(
    app: FastAPI,
    sampler: Sampler,
    alice: Caller,
    recorded: list[tuple[Any, dict[str, Any]]],
    operation: Operation,
) -> None:
    sent: list[Sent] = []
    for caller, who in ((sampler.caller, "an admin"), (alice, "a member")):
        its_sampler = Sampler(app, caller, sampler.caller)
        listing = await its_sampler.prepare(operation)
        if (await caller.get(listing.url)).status_code in REFUSED:
            continue
        if operation.is_list:
            for _ in range(2):
                await sampler.call(sampler.operations["POST", operation.path], listing.path)
        for query in queries(operation):
            recorded.clear()
            answer = await read_pages(caller, listing, query)
            sent += [Sent(who, query, statement, values) for statement, values in recorded]
            is_seen = recorded or caller is not sampler.caller  # others may be refused a filter
            assert is_seen, mismatch(listing, answer, f"a page by `Pager.fetch`, with {query}")
    for world in WORLDS:
        await costs_little(app, operation, sent, world)


async def costs_little(app: FastAPI, operation: Operation, sent: list[Sent], world: str) -> None:
    """Plan the statements with the statistics of this world, in a transaction that is undone."""
    place, distinct = WORLDS[world]
    values = {} if place is None else {kind: ends[place] for kind, ends in EXTREMES.items()}
    async with open_session(app) as session:
        connection = await session.connection()
        for unit in UNITS:
            await connection.execute(text(unit))
        await connection.execute(text(ADD_ROWS))
        empty = {*await connection.scalars(text(EMPTY))}
        await connection.execute(text(CLEAR_STATISTICS))
        await connection.execute(text(SIZES), {"count": MILLION})
        parameters = {"values": json.dumps(values), "distinct": distinct}
        await connection.execute(text(COLUMNS), parameters)
        plans = [await plan_of(session, statement) for statement in sent]
        await session.rollback()
    is_empty = operation.table is not None and operation.table.name in empty
    assert not is_empty, f"{operation.title}: its table is empty, and no row has a default key"
    for statement, plan in zip(sent, plans, strict=True):
        if world != SOME or not statement.has_several:
            assert plan["Total Cost"] <= MOST_ROWS, advice(operation, statement, plan, world)


def advice(operation: Operation, sent: Sent, plan: dict[str, Any], world: str) -> str:
    """An assertion's message: the query, its plan, and the index that is missing."""
    table = operation.table.name if operation.table is not None else "TABLE"
    index = f"Index(None, {sent.columns})"
    if sent.query.get("q") == LONG:
        index = f'search_index("{table}", COLUMN)'
    query = "&".join(f"{name}={value}" for name, value in sent.query.items()) or "no filter"
    return (
        f"{operation.title} with {query}, for {sent.caller}: no index serves it at a million rows"
        f" ({world}): {' <- '.join(nodes(plan))} reads about {plan['Total Cost']:.0f} of them"
        f"\nExpected: an index that has what the list asks for in front, and then"
        f" its order, such as {index}"
    )
