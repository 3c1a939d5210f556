"""Every line of the log is one event, says which request it belongs to, and keeps secrets."""

import io
import json
import logging
import sys
import traceback

import asyncpg
import httpx
import pytest
from fastapi import BackgroundTasks
from pydantic import BaseModel, TypeAdapter

from kernel.errors import Conflict
from kernel.http.router import Router
from kernel.logs import UNSHOWN, JsonFormatter, _Lines, configure_logging
from kernel.terminal import ConsoleFormatter
from kernel.tests.app import create_app

HOSTILE = ["a\r\nb", "\x1b[31m", "\u2028", "x" * 3000, '"}{"level":"ERROR"}', "\u00fc", "a b", ""]


@pytest.fixture
def lines():
    """The lines that the service's own handler writes, parsed."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.getLogger().removeHandler(handler)


async def test_a_request_is_one_access_line(alice, lines):
    await alice.post("/peelings", json={"title": "x"}, headers={"X-Request-ID": "abc.DEF-1_2"})
    (line,) = lines()
    assert line.pop("ms") > line.pop("db_ms") + line.pop("wait_ms") > 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "kernel.http.middleware",
        "message": "request",
        "request_id": "abc.DEF-1_2",
        "method": "POST",
        "route": "/peelings",
        "status": 201,
        "queries": 2,
        "attempts": 1,
        "error": None,
        "user_id": alice.user_id,
        "client": "127.0.0.1",
    }


async def test_a_route_is_logged_by_its_template_and_never_by_its_values(alice, lines):
    for path in ("/peelings/7?q=canary", "/nowhere/canary?canary=1"):
        await alice.get(path)
    requests = [line for line in lines() if line["message"] == "request"]
    assert [line["route"] for line in requests] == ["/peelings/{peeling_id}", None]
    assert "canary" not in json.dumps(lines())


@pytest.mark.parametrize("given", HOSTILE)
async def test_a_request_id_that_is_not_plain_is_replaced(client, lines, given):
    answer = await client.get("/livez", headers=[(b"X-Request-ID", given.encode())])
    made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert [line["request_id"] for line in lines()] == [made]


async def test_every_answer_carries_the_requests_id(client, alice):
    headers = {"X-Request-ID": "mine"}
    for answer in (
        await client.get("/livez", headers=headers),
        await client.get("/nowhere", headers=headers),
        await client.get("/peelings", headers=headers),
        await alice.post("/peelings", json={}, headers=headers),
        await alice.put("/peelings", headers=headers),
        await client.post("/users", content=b" " * 2_000_000, headers=headers),
    ):
        assert answer.headers.get_list("x-request-id") == ["mine"]
        assert "app;dur=" in answer.headers["server-timing"]


async def test_records_of_other_loggers_and_of_background_tasks_carry_the_id(settings, sql, lines):
    router = Router(tags=["tasks"])

    async def later() -> None:
        logging.getLogger("somebody.else").warning("later")

    @router.get("/task")
    async def start(tasks: BackgroundTasks) -> None:
        tasks.add_task(later)
        logging.getLogger("somebody.else").warning("now")

    app = create_app(settings)
    app.include_router(router)
    logging.getLogger().addHandler(logging.NullHandler())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        await client.get("/task", headers={"X-Request-ID": "task-1"})
    ours = [line for line in lines() if line["logger"] != "kernel.http.application"]
    found = {line["message"]: line["request_id"] for line in ours}
    assert found == {"now": "task-1", "later": "task-1", "request": "task-1"}


def formatted(error, *, full=False):
    try:
        raise error
    except type(error):
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", None, sys.exc_info())
    return json.loads(JsonFormatter(full=full).format(record))["exception"]


def invalid():
    try:
        TypeAdapter(int).validate_python(chr(99) + "anary")
    except ValueError as error:
        return error


def chained():
    error = RuntimeError("outer")
    error.__cause__ = KeyError("canary")
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("canary"),
        KeyError("canary"),
        UnicodeEncodeError("utf-8", "canary", 0, 1, "canary"),
        asyncpg.UniqueViolationError("Key (email)=(canary) already exists"),
        asyncpg.PostgresSyntaxError('syntax error in tsquery: "canary & ("'),
        asyncpg.RaiseError("canary"),
        FileNotFoundError(2, "No such file", "canary"),
        invalid(),
        chained(),
    ],
)
def test_an_exception_is_logged_without_the_values_that_it_was_about(error):
    text = formatted(error)
    assert "canary" not in text
    assert type(error).__name__ in text
    assert "test_logs.py" in text


async def test_the_detail_of_a_refusal_is_not_logged(sql):
    """Where a message speaks of code, DETAIL and HINT may speak of values all the same."""
    words = "USING ERRCODE = '55000', DETAIL = 'canary', HINT = 'canary'"
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as raised:
        await sql.execute(f"DO $$ BEGIN RAISE 'not so' {words}; END $$")
    text = formatted(raised.value)
    assert "not so" in text
    assert "canary" not in text


class Shopping(BaseModel):
    count: int
    password: str


def of_a_body():
    try:
        Shopping.model_validate({"count": "many", "password": chr(99) + "anary"})
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("five is odd"), "ValueError: five is odd"),
        (KeyError("name"), "KeyError: 'name'"),
        (of_a_body(), "{'loc': ('count',), 'type': 'int_parsing'"),
        (asyncpg.UniqueViolationError("Key (email)=(a) exists"), "Key (email)=(a) exists"),
    ],
)
def test_in_development_an_exception_is_logged_with_its_message_but_no_body(error, told):
    text = formatted(error, full=True)
    assert told in text
    assert "canary" not in text
    assert told not in formatted(error)


@pytest.mark.parametrize("full", [False, True])
def test_an_error_that_is_taken_out_of_its_group_is_logged_once(full):
    """Raised while its group is handled, it has the group as its context."""

    def unwrap():
        try:
            raise ExceptionGroup("several", [KeyError("first"), LookupError("second")])
        except ExceptionGroup as group:
            raise group.exceptions[0]  # noqa: B904

    with pytest.raises(KeyError) as raised:
        unwrap()
    lines = formatted(raised.value, full=full).splitlines()
    told = sorted(line.partition(":")[0] for line in lines if "Error" in line[:12])
    assert told == ["KeyError", "LookupError"]


def test_an_error_that_speaks_of_code_keeps_its_message():
    assert "no attribute 'x'" in formatted(AttributeError("no attribute 'x'"))
    assert "email is already taken" in formatted(Conflict("email is already taken"))


def test_libraries_stay_quiet_at_debug():
    configure_logging("DEBUG")
    try:
        assert logging.getLogger("kernel").isEnabledFor(logging.DEBUG)
        for name in ("httpx", "sqlalchemy.engine", "asyncio", "python_multipart"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    finally:
        configure_logging("INFO")


STARTUP = """Traceback (most recent call last):
  File "/app/features/mail/router.py", line 9, in lifespan
    raise ValueError(url)
ValueError: cannot reach smtp://canary@host
canary in a second line

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/app/service.py", line 1, in <module>
smtplib.SMTPServerDisconnected: canary"""


@pytest.mark.parametrize("full", [False, True])
def test_the_message_of_an_error_that_stopped_the_start_is_for_development(full):
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, STARTUP, None, None)
    message = json.loads(JsonFormatter(full=full).format(record))["message"]
    assert ("canary" in message) is full
    for told in ("features/mail/router.py", "ValueError", "smtplib.SMTPServerDisconnected"):
        assert told in message


def a_group_of_errors():
    word = chr(99) + "anary"  # a line of code is logged
    raise ExceptionGroup(word, [of_a_body(), ValueError(f"a\n{word}\n  {word}:")])


@pytest.mark.parametrize("error", [of_a_body(), ValueError("see:\ncanary\n  canary"), None])
def test_no_line_of_the_message_of_such_an_error_is_logged(error):
    """Nor one that is indented, as pydantic's with the input is, or of one word, as a type is."""

    def fail():
        raise error or a_group_of_errors()

    with pytest.raises((ValueError, ExceptionGroup)) as raised:
        fail()
    text = "".join(traceback.format_exception(raised.value))
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, text, None, None)
    message = json.loads(JsonFormatter().format(record))["message"]
    assert "canary" not in message
    assert any(line.endswith(raised.typename) for line in message.splitlines())
    assert "in fail" in message


class Unshowable:
    def __str__(self):
        raise ZeroDivisionError


def within_itself():
    members: dict[str, object] = {}
    members["itself"] = members
    return members


@pytest.mark.parametrize("beside", ["a", "\u00e9", "\ud800"])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("nan"), "NaN"),
        ([float("-inf")], ["-Infinity"]),
        (b"\xff", "b'\\xff'"),
        ({b"\xff": 1}, "{b'\\xff': 1}"),
        (within_itself(), "{'itself': {...}}"),
        (Unshowable(), "Unshowable that cannot be shown"),
    ],
    ids=["nan", "infinity", "bytes", "key", "circle", "unshowable"],
)
def test_a_member_that_json_has_not_is_a_text(value, told, beside):
    record = logging.LogRecord("features.x", logging.INFO, "", 0, "peeled", None, None)
    record.fields = {"value": value, "beside": beside, "ms": 1.5}
    line = json.loads(JsonFormatter().format(record), parse_constant=pytest.fail)
    assert (line["value"], line["beside"], line["ms"]) == (told, beside, 1.5)


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()], ids=["json", "text"])
def test_arguments_that_do_not_fit_their_message_cost_no_line_and_are_not_told(formatter):
    record = logging.LogRecord("features.x", logging.INFO, "", 0, "%d peeled", ("canary",), None)
    text = formatter.format(record)
    assert "%d peeled (its arguments do not fit)" in text
    assert "canary" not in text


class Secretive:
    def __str__(self):
        raise KeyError("canary")


def of_a_group_in_a_group(depth=3000):
    error = RuntimeError("leaf")
    for _ in range(depth):
        error = ExceptionGroup("several", [error])
    return error


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()], ids=["json", "text"])
@pytest.mark.parametrize(
    "members",
    [
        {"msg": Secretive()},
        {"fields": "canary"},
        {"fields": {"sql": "canary"}, "msg": "statement"},
        {"fields": {b"canary": Secretive(), "a": Secretive()}},
        {"exc_info": (RuntimeError, of_a_group_in_a_group(), None)},
    ],
    ids=["message", "fields", "statement", "key", "depth"],
)
def test_a_record_that_cannot_be_formatted_is_a_line_without_its_values(capsys, formatter, members):
    stream = io.StringIO()
    handler = _Lines(stream)
    handler.setFormatter(formatter)
    record = {"name": "features.x", "levelname": "ERROR", "lineno": 7, "msg": "peeled"}
    handler.handle(logging.makeLogRecord(record | members))
    told = stream.getvalue()
    assert told.count("\n") == 1
    assert ("canary" not in told and "features.x:7" in told) or UNSHOWN not in told
    assert capsys.readouterr().err == ""
