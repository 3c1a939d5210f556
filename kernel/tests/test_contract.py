"""What every operation owes its clients, walked over the OpenAPI document.

A slice is covered by being mounted. Whatever is asked here, the answer is also held against the
document: its status is declared, and a failure has the one form.
"""

import asyncio
import gzip
import json
import re
import time
from contextlib import suppress
from urllib.parse import quote_from_bytes, urlencode

import pytest
from argon2 import PasswordHasher
from sqlalchemy import UniqueConstraint, func, select

from kernel.http.openapi import REQUEST_HEADERS
from kernel.identity.passwords import PasswordVault
from kernel.logs import configure_logging
from kernel.settings import Settings
from kernel.testing.callers import PASSWORD
from kernel.testing.hostile import INJECTIONS, REQUESTS, documents, fragments, texts
from kernel.testing.operations import Sampler, holds, lists, operations
from kernel.tests.app import create_app
from kernel.tests.processes import checkout_in, serve

APP = create_app(Settings(_env_file=None))
OPERATIONS = list(operations(APP))
TYPES = ("application/json", "application/x-www-form-urlencoded")
JSON = {"Content-Type": "application/json"}
AT_ONCE = 4  # requests
# What a request leaves behind although it fails.
ASIDE = ("idempotency_keys", "sign_in_attempts")
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
COLUMNS = """
    SELECT DISTINCT column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name NOT IN ('alembic_version', 'idempotency_keys')
"""
REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE 'a GET wrote'; END $$
"""


def every(chosen):
    return pytest.mark.parametrize("operation", chosen, ids=str)


BODIES = [each for each in OPERATIONS if each.media_type in TYPES]
DOCUMENTS = [each for each in BODIES if not each.is_form]
GETS = [each for each in OPERATIONS if each.method == "GET"]
LISTS = lists(APP)
PARAMETERS = [each for each in OPERATIONS if each.parameters("path") or each.parameters("query")]
PATHS = sorted({each.path for each in OPERATIONS})


def has_twins(operation):
    """Whether the table has columns of the body's that no two rows of a caller may share."""
    table = operation.table
    rules = () if table is None else (*table.constraints, *table.indexes)
    unique = [rule for rule in rules if isinstance(rule, UniqueConstraint) or is_unique(rule)]
    given = operation.body["properties"].keys()
    return any(
        {column.name for column in rule.columns if not column.foreign_keys} <= given
        for rule in unique
    )


def is_unique(rule):
    return getattr(rule, "unique", False)


CREATES = [each for each in DOCUMENTS if each.method == "POST" and has_twins(each)]


# A sign-in may fail as often as these tests make it fail, and not each is worth a log line.
CHANGES = {"sign_in_failures": 1_000_000, "log_level": "WARNING"}
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture(scope="module")
async def password_hash():
    return CHEAP.hash(PASSWORD)


@pytest.fixture(scope="module")
async def running_app(settings):
    """The service, with hashes that cost next to nothing: there are a thousand of them here."""
    app = create_app(settings.model_copy(update=CHANGES))
    async with app.router.lifespan_context(app):
        vault = app.state.resources.get(PasswordVault)
        vault._hasher, vault._nobodys = CHEAP, CHEAP.hash("nobody's")
        yield app
    configure_logging(settings.log_level)


@pytest.fixture
async def sampler(app, sign_up):
    return Sampler(app, await sign_up("Sampler", "admin"))


@pytest.fixture
def rows(sql):
    """The rows of all tables, to compare."""

    async def rows():
        names = [row[0] for row in await sql.fetch(TABLES) if row[0] not in ASIDE]
        return {
            name: {tuple(row) for row in await sql.fetch(f"SELECT * FROM {name}")} for name in names
        }

    return rows


@pytest.fixture
def ask(sampler):
    """Ask for an operation, and hold the answer against the document."""

    async def ask(operation, url, **content):
        answer = await sampler.caller.request(operation.method, url, **content)
        holds(operation, answer)
        assert answer.status_code < 500, (operation, answer.text[:300])
        if answer.status_code >= 400:
            # Nothing is echoed, but for names.
            assert len(answer.content) < 4096
            assert "x" * 100 not in answer.text
        return answer

    return ask


async def all_of(requests):
    """Run the requests, a few at a time."""
    limit = asyncio.Semaphore(AT_ONCE)

    async def run(request):
        async with limit:
            return await request

    return await asyncio.gather(*[run(request) for request in requests])


async def lists_are_whole(sampler, ask):
    """A row that cannot be read would break every list that it is in."""
    for operation in LISTS:
        answer = await ask(operation, await sampler.url(operation), params={"limit": 100})
        assert answer.status_code == 200


# Hostile values.


@every(PARAMETERS)
async def test_no_parameter_breaks_an_operation(sampler, ask, operation):
    url, body = await sampler.url(operation), await sampler.body(operation)
    content = operation.content(body)
    urls = [
        f"{url}?{quoted(name)}={quoted(text)}"
        for name, schema in operation.parameters("query").items()
        for text in texts(schema.get("maxLength"))
    ]
    for name in operation.parameters("path"):
        before, after = operation.path.split(f"{{{name}}}")
        # An empty one, or one with a slash, makes another path.
        urls += [f"{before}{quoted(text)}{after}" for text in texts(None) if "/" not in text > ""]
    answers = await all_of([ask(operation, each, **content) for each in urls])
    assert len(answers) >= 40
    await lists_are_whole(sampler, ask)


def quoted(text):
    return quote_from_bytes(text.encode(errors="surrogatepass"), safe="")


@pytest.mark.slow
@every(BODIES)
async def test_no_value_of_a_field_breaks_an_operation(sampler, ask, operation):
    url, known = await sampler.url(operation), await sampler.given(operation)
    bodies = []
    for field, schema in operation.body["properties"].items():
        longest = operation.resolve(schema).get("maxLength")
        values = texts(longest) if operation.is_form else fragments(longest)
        bodies += [written(operation, known, field, value) for value in values]
    answers = await all_of([ask(operation, url, **body) for body in bodies])
    assert len(answers) >= 40
    await lists_are_whole(sampler, ask)


def written(operation, known, field, value):
    """A request with this value in the field, and valid ones in the others."""
    body = operation.sample() | known
    companions = operation.body.get("dependentRequired", {}).get(field, [])
    properties = operation.body["properties"]
    body |= {name: operation.value(properties[name]) for name in companions}
    if operation.is_form:
        form = {**body, field: value.encode(errors="surrogatepass")}
        return {
            "content": urlencode(form),
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        }
    members = {name: json.dumps(each) for name, each in body.items()} | {field: value}
    document = ", ".join(f'"{name}": {each}' for name, each in members.items())
    return {"content": f"{{{document}}}", "headers": JSON}


@every(DOCUMENTS)
async def test_no_document_breaks_an_operation(sampler, ask, rows, operation):
    url = await sampler.url(operation)
    field = next(iter(operation.body["properties"]))
    before = await rows()
    for document in documents(field):
        spent = time.process_time()
        answer = await ask(operation, url, content=document, headers=JSON)
        assert time.process_time() - spent < 0.5  # seconds; unbounded mistakes took 1.3
        assert answer.status_code in (400, 413, 415, 422), document[:100]
    assert await rows() == before


@every(BODIES)
async def test_a_body_of_another_kind_is_refused(sampler, ask, rows, operation):
    url, body = await sampler.url(operation), await sampler.body(operation)
    right = operation.media_type
    content = (urlencode(body) if operation.is_form else json.dumps(body)).encode()
    before = await rows()
    zipped = {"Content-Type": right, "Content-Encoding": "gzip"}
    kinds = ("text/plain", "application/xml", "application/json+x", "", ";", "a" * 5000)
    bodies = [{"content": content, "headers": {"Content-Type": kind}} for kind in kinds]
    bodies.append({"content": content})
    bodies.append({"content": gzip.compress(content), "headers": zipped})
    bodies.append({"content": b" " * 1024 * 1025, "headers": JSON})
    answers = [await ask(operation, url, **body) for body in bodies]
    assert {answer.status_code for answer in answers} <= {400, 413, 415, 422}
    assert await rows() == before


# Fields.


def needed(operation):
    """The fields that have to be there, and those that cannot be null, which a form has not."""
    properties = [] if operation.is_form else operation.body["properties"]
    filled = [name for name in properties if not operation.takes_null(name)]
    return operation.body.get("required", []), filled


@every([each for each in BODIES if any(needed(each))])
async def test_a_required_field_is_there_and_is_not_null(sampler, ask, rows, operation):
    url, body = await sampler.url(operation), await sampler.body(operation)
    before = await rows()
    required, filled = needed(operation)
    wrong = [(field, {name: body[name] for name in body if name != field}) for field in required]
    wrong += [(name, body | {name: None}) for name in filled]
    for field, mistaken in wrong:
        answer = await ask(operation, url, **operation.content(mistaken))
        assert answer.status_code == 422
        assert field in str(answer.json()["errors"][0]["loc"])
    assert await rows() == before


@every(DOCUMENTS)
async def test_a_column_that_is_not_the_clients_cannot_be_set(sampler, ask, rows, sql, operation):
    url = await sampler.url(operation)
    columns = {row[0] for row in await sql.fetch(COLUMNS)} - operation.body["properties"].keys()
    assert columns >= {"id", "version", "created_at"}
    body = await sampler.body(operation)
    before = await rows()
    for column in (*columns, "is_admin", "__class__", "model_config"):
        answer = await ask(operation, url, json=body | {column: 1})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["type"] == "extra_forbidden"
    assert await rows() == before


# The database judges.


@every(CREATES)
async def test_of_racing_twins_exactly_one_is_made(sampler, ask, operation):
    for _ in range(5):
        body = await sampler.body(operation)
        answers = await all_of([ask(operation, operation.path, json=body) for _ in range(AT_ONCE)])
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * (AT_ONCE - 1)


def test_there_is_something_to_race_for():
    assert "POST /users" in map(str, CREATES)


# Injections.


@every(PARAMETERS)
async def test_no_text_of_a_parameter_becomes_sql(sampler, ask, rows, operation):
    url, known = await sampler.url(operation), await sampler.body(operation)
    before = await rows()
    asked = []
    for name in operation.parameters("query"):
        asked += [ask(operation, f"{url}?{name}={quoted(each)}") for each in INJECTIONS]
    for name in operation.parameters("path"):
        start, end = operation.path.split(f"{{{name}}}")
        content = {"json": known} if known else {}
        asked += [ask(operation, f"{start}{quoted(each)}{end}", **content) for each in INJECTIONS]
    for answer in await all_of(asked):
        assert answer.status_code in (404, 422) or answer.json()["items"] == []
    assert await rows() == before


@every(BODIES)
async def test_no_text_of_a_body_becomes_sql(sampler, ask, rows, operation):
    url, known = await sampler.url(operation), await sampler.given(operation)
    values = INJECTIONS if operation.is_form else [json.dumps(each) for each in INJECTIONS]
    fields = operation.body["properties"]
    before = await rows()
    answers = await all_of(
        [
            ask(operation, url, **written(operation, known, field, value))
            for field in fields
            for value in values
        ]
    )
    after = await rows()
    gone = set().union(*(before[name] - after[name] for name in after))
    new = set().union(*(after[name] - before[name] for name in after))
    done = sum(answer.is_success for answer in answers)
    # What is made is one row each, and what is changed is one row.
    assert (len(gone), len(new)) <= (0, done) if operation.method == "POST" else (1, 1)


# Lists.


@pytest.fixture
async def fill(sampler):
    """Make rows for a list to show."""

    async def fill(operation, url, count):
        create = sampler.operations["POST", operation.path]
        made = await all_of([sampler.call(create, url) for _ in range(count)])
        assert {answer.status_code for answer in made} == {201}

    return fill


def orders(operation):
    """The list's orders; None where there is but one."""
    return operation.parameters("query").get("order", {}).get("enum", [None])


def params(**given):
    return {name: value for name, value in given.items() if value is not None}


@every(LISTS)
async def test_pages_are_complete_and_stay_so_while_rows_come(sampler, ask, fill, operation):
    url = await sampler.url(operation)
    await fill(operation, url, 12)
    for order in orders(operation):
        whole = await page(ask, operation, url, order=order, limit=100)
        assert len(whole["items"]) >= 12
        seen, cursor = [], None
        while len(seen) == 0 or cursor:
            part = await page(ask, operation, url, order=order, limit=5, cursor=cursor)
            seen += [row["id"] for row in part["items"]]
            cursor = part["next_cursor"]
            await fill(operation, url, 1)
        ids = [row["id"] for row in whole["items"]]
        assert [each for each in seen if each in ids] == ids
        assert len(set(seen)) == len(seen)


async def page(ask, operation, url, **given):
    return (await ask(operation, url, params=params(**given))).json()


@every(LISTS)
async def test_a_page_is_bounded(sampler, ask, fill, operation):
    url = await sampler.url(operation)
    await fill(operation, url, 2)
    most = operation.parameters("query")["limit"]["maximum"]
    for limit in (0, -1, most + 1, 2**63, "x", ""):
        answer = await ask(operation, url, params={"limit": limit})
        assert answer.status_code == 422
    assert len((await page(ask, operation, url, limit=1))["items"]) == 1
    assert (await ask(operation, url, params={"limit": most})).status_code == 200


@every(LISTS)
async def test_a_forged_cursor_is_refused(sampler, ask, fill, operation):
    url = await sampler.url(operation)
    await fill(operation, url, 2)
    cursor = (await page(ask, operation, url, limit=1))["next_cursor"]
    forged = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in (0, 9)]
    for bad in (*forged, cursor[1:], cursor[:-5], cursor * 2, "x", ""):
        answer = await ask(operation, url, params={"cursor": bad})
        assert answer.status_code == 422


@every(LISTS)
async def test_a_list_of_many_takes_as_many_queries_as_a_list_of_one(sampler, ask, fill, operation):
    url = await sampler.url(operation)
    await fill(operation, url, 1)
    few = await ask(operation, url)
    await fill(operation, url, 19)
    many = await ask(operation, url)
    assert len(many.json()["items"]) >= 20
    assert queries(few) == queries(many)


def queries(answer):
    return answer.headers["server-timing"].split('desc="')[1].split('"')[0]


# Reads.


async def test_no_get_writes(sampler, ask, sql):
    urls = [(each, await sampler.url(each)) for each in GETS]
    await sql.execute(REFUSE)
    try:
        for (table,) in await sql.fetch(TABLES):
            await sql.execute(
                f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
            )
        for operation, url in urls:
            assert (await ask(operation, url)).status_code == 200
    finally:
        await sql.execute("DROP FUNCTION refuse() CASCADE")


@pytest.mark.parametrize("reader", ["reader", "probe"])
async def test_what_a_get_reads_with_cannot_write(app, reader):
    setting = func.current_setting("transaction_read_only").label("setting")
    found = await getattr(app.state.resources, reader).fetch(select(setting))
    assert [dict(row) for row in found] == [{"setting": "on"}]


@every(GETS)
async def test_head_is_get_without_the_body(sampler, operation):
    url = await sampler.url(operation)
    get, head = await sampler.caller.get(url), await sampler.caller.head(url)
    assert (head.status_code, head.content) == (get.status_code, b"")
    own = {"x-request-id", "server-timing"}
    assert get.headers.keys() == head.headers.keys()
    assert {n: v for n, v in get.headers.items() if n not in own} == {
        n: v for n, v in head.headers.items() if n not in own
    }


# Headers. What writes do with theirs is in test_boundary.


def documenting(name):
    return [each for each in OPERATIONS if name in each.parameters("header")]


def test_every_header_of_the_boundary_is_one_that_is_tested():
    known = {"Idempotency-Key", "Prefer", "If-Match", "If-None-Match"}
    assert REQUEST_HEADERS.keys() == known
    writes = [each for each in OPERATIONS if each.method != "GET"]
    assert documenting("Idempotency-Key") == documenting("Prefer") == writes
    assert documenting("If-Match") == [each for each in writes if each.method != "POST"]


@every(documenting("If-None-Match"))
async def test_a_get_with_the_current_tag_is_not_modified(sampler, ask, operation):
    url = await sampler.url(operation)
    read = await ask(operation, url)
    tag = read.headers["etag"]
    assert tag == f'"{read.json()["version"]}"'
    for tags in (tag, f"W/{tag}", f'"0", {tag}', "*"):
        answer = await ask(operation, url, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    for tags in ('"0"', tag.strip('"'), ""):
        answer = await ask(operation, url, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content) == (200, read.content)


@every([each for each in OPERATIONS if "ETag" in each.success.get("headers", {})])
async def test_an_answer_about_one_row_carries_its_version(sampler, operation):
    answer = await sampler.call(operation)
    assert answer.headers["etag"] == f'"{answer.json()["version"]}"'


# Methods.


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_has_the_methods_of_the_document_and_no_other(sampler, path):
    documented = {each.method for each in OPERATIONS if each.path == path}
    allowed = documented | ({"HEAD"} if "GET" in documented else set())
    url = await sampler.url(next(each for each in OPERATIONS if each.path == path))
    known = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "BREW"}
    for method in known - allowed:
        answer = await sampler.caller.request(method, url)
        assert answer.status_code == 405, method
        assert set(answer.headers["allow"].split(", ")) == allowed
        assert answer.headers["content-type"] == "application/problem+json"


# Bytes.


@pytest.fixture(scope="module")
async def service(tmp_path_factory, database):
    with checkout_in(tmp_path_factory.mktemp("contract") / "checkout") as checkout:
        async with (
            database() as url,
            serve(checkout, database_url=url, jwt_secret="test" * 8) as service,
        ):
            yield service


@pytest.mark.slow
async def test_requests_that_no_client_library_sends_are_refused(service):
    """Each gets one answer or none, and is forgotten.

    What uvicorn itself does not limit is the proxy's to limit: the headers of a request together
    (it reads 20 MB of them) and the time that they take to arrive.
    """
    before = service.memory("VmRSS")
    got = await all_of([exchange(service.port, request) for request, _ in REQUESTS.values()])
    allowed = dict(zip(REQUESTS, (statuses for _, statuses in REQUESTS.values()), strict=True))
    answered = dict(zip(REQUESTS, got, strict=True))
    assert {name: each for name, each in answered.items() if not set(each) <= allowed[name]} == {}
    assert [name for name, each in answered.items() if len(each) > 1] == []
    assert await service.status("/livez") == 200
    assert service.process.poll() is None
    assert service.memory("VmHWM") - before < 20 * 2**20
    assert [line for line in service.lines() if line["level"] == "ERROR"] == []


async def test_pipelined_requests_are_answered_in_order(service):
    asked = [f"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-ID: n{n}\r\n\r\n" for n in range(3)]
    connection = await asyncio.open_connection("127.0.0.1", service.port)
    connection[1].write("".join(asked).encode())
    received = await everything(connection[0])
    connection[1].close()
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200"] * 3
    assert re.findall(rb"x-request-id: (\w+)", received) == [b"n0", b"n1", b"n2"]


async def exchange(port, request):
    """The statuses of what comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
    received = await everything(reader)
    writer.close()
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]


async def everything(reader):
    """What comes, until the service closes or has been silent for a while."""
    received = b""
    with suppress(TimeoutError, ConnectionError):
        while data := await asyncio.wait_for(reader.read(65536), 0.5):
            received += data
    return received
