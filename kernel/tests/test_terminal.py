"""On a terminal the log is lines for people; in a pipe, JSON."""

import io
import logging
import re
import sys

import pytest
from pydantic import SecretStr

from kernel.context import RequestContext, enter_context, leave_context
from kernel.http.drain import Drain
from kernel.http.router import Router
from kernel.http.welcome import welcome
from kernel.logs import JsonFormatter, formatter_for, parents_formatter
from kernel.terminal import ConsoleFormatter
from kernel.tests.app import create_app

TIME = re.compile(r"^\d\d:\d\d:\d\d\.\d{3} ")
HOSTILE = ["a\r\nERROR b", "\x1b[31mred", "\u2028b", "\x07", "\ud800", "x\x9b2J", "tab\there"]


class Stream(io.StringIO):
    def __init__(self, is_terminal):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.fixture
def console():
    """The lines that people see, without their time."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ConsoleFormatter(full=True))
    logging.getLogger().addHandler(handler)
    yield lambda: [TIME.sub("", line) for line in stream.getvalue().splitlines()]
    logging.getLogger().removeHandler(handler)


def record(message="x", level=logging.INFO, name="kernel.x", caught=None, **fields):
    info = (type(caught), caught, caught.__traceback__) if caught else None
    made = logging.LogRecord(name, level, "", 0, message, None, info)
    made.fields = fields
    return made


def lines(*arguments, full=True, **fields):
    text = ConsoleFormatter(full=full).format(record(*arguments, **fields))
    return [TIME.sub("", line) for line in text.split("\n")]


def raised(error):
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("is_terminal", "chosen", "kind"),
    [
        (True, None, ConsoleFormatter),
        (False, None, JsonFormatter),
        (True, "json", JsonFormatter),
        (False, "console", ConsoleFormatter),
    ],
)
def test_the_form_is_what_is_chosen_or_suits_the_stream(is_terminal, chosen, kind):
    assert type(formatter_for(Stream(is_terminal), chosen)) is kind


@pytest.mark.parametrize(("chosen", "kind"), [("console", ConsoleFormatter), ("x", JsonFormatter)])
def test_uvicorns_parent_has_the_form_that_the_environment_chooses(monkeypatch, chosen, kind):
    monkeypatch.setattr(sys, "stderr", Stream(is_terminal=False))
    monkeypatch.setenv("APP_LOG_FORMAT", chosen)
    assert type(parents_formatter()) is kind


@pytest.mark.parametrize(
    ("is_terminal", "variables", "has_colours"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {"TERM": "xterm"}, False),
    ],
)
def test_there_are_colours_where_a_terminal_shows_them(
    monkeypatch, is_terminal, variables, has_colours
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    text = formatter_for(Stream(is_terminal), "console").format(record())
    assert ("\x1b[" in text) is has_colours


async def test_a_request_is_a_line_with_method_path_status_time_and_the_beginning_of_its_id(
    alice, console
):
    await alice.post("/peelings", json={"title": "x"}, headers={"X-Request-ID": "0123456789"})
    (line,) = console()
    cost = r"[\d.]+ ms \(2 queries, [\d.]+ ms\)( wait_ms=[\d.]+)?"
    assert re.fullmatch(
        rf"INFO    POST   /peelings 201 {cost} user_id={alice.user_id} 01234567", line
    )


async def test_a_request_for_nothing_is_told_with_its_path_in_development_alone(client, console):
    await client.get("/nowhere/7", headers={"X-Request-ID": "abc"})
    (line,) = console()
    assert re.fullmatch(r"INFO    GET    /nowhere/7 \(no operation\) 404 [\d.]+ ms abc", line)
    token = enter_context(RequestContext(request_id="abc", unmatched_path="/nowhere/7\x1b"))
    told = [lines("request", full=full, **REQUEST, route=None)[0] for full in (True, False)]
    leave_context(token)
    assert ["/nowhere/7\\x1b (" in line for line in told] == [True, False]
    assert told[1].startswith("INFO    GET    (no operation) ")


REQUEST = {"method": "GET", "status": 0, "ms": 1.5, "queries": 1, "db_ms": 0.5, "attempts": 2}


def test_what_is_out_of_the_ordinary_is_told():
    assert lines("request", **REQUEST, route="/x", error="TimeoutError", user_id=None) == [
        "INFO    GET    /x no answer 1.5 ms (1 query, 0.5 ms) attempts=2 error=TimeoutError"
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_moves_the_cursor_or_looks_like_another_record(text):
    for fields in ({}, {"value": text}):
        told = lines(text, name=text, **fields) + lines("x", caught=raised(ValueError(text)))
        for line in told:
            assert line.isprintable()
            assert line.startswith(("INFO    ", "    "))


def test_a_traceback_is_over_lines_of_its_own():
    first, *others = lines("failed", logging.ERROR, caught=raised(ValueError("canary")))
    assert first == "ERROR   failed"
    assert others[0].startswith('      File "')
    assert others[-1] == "    ValueError: canary"
    assert "canary" not in str(lines("failed", caught=raised(ValueError("canary")), full=False))


def test_a_line_of_a_slice_or_a_library_says_whose_it_is():
    assert lines("made", name="features.mail.handlers", number=7) == [
        "INFO    made (features.mail.handlers) number=7"
    ]


async def test_at_debug_each_statement_is_told_without_its_values(mount, alice, console, log):
    router = Router(prefix="/x")
    async with mount(router, log_level="DEBUG") as client:
        answer = await client.post("/peelings", json={"title": "canary"}, headers=alice.headers)
        again = await client.post("/peelings", json={"title": "x"}, headers=alice.headers)
    told = [line for line in console() if line.startswith("DEBUG")]
    statements = [line["sql"] for line in log.lines() if line["message"] == "statement"]
    assert (answer.status_code, again.status_code) == (201, 201)
    assert [each.split()[0] for each in statements[-4:]] == ["SELECT", "BEGIN", "INSERT", "COMMIT"]
    assert re.match(r"DEBUG   [\d.]+ ms INSERT INTO peelings ", told[-2])
    assert "canary" not in str(told)


async def test_otherwise_no_statement_is_told(alice, log):
    await alice.get("/peelings")
    assert not [line for line in log.lines() if line["message"] == "statement"]


class Config:
    uds = fd = None
    host, port, root_path, is_ssl = "0.0.0.0", 8000, "", False  # noqa: S104  # nothing is bound


class Server:
    config = Config()

    def handle(self, number, frame): ...


@pytest.mark.parametrize(
    ("changes", "docs"),
    [
        ({}, "http://127.0.0.1:8000/docs"),
        ({"host": "::1", "is_ssl": True}, "https://[::1]:8000/docs"),
        ({"host": "::"}, "http://[::1]:8000/docs"),
        ({"host": "box", "root_path": "/api"}, "http://box:8000/api/docs"),
        ({"uds": "x.sock"}, "/docs"),
        ({"fd": 0}, "/docs"),
        ({"port": 0}, "/docs"),
    ],
)
def test_a_start_tells_where_the_docs_are(settings, monkeypatch, changes, docs):
    for name, value in changes.items():
        monkeypatch.setattr(Config, name, value)
    resources = create_app(settings).state.resources
    monkeypatch.setattr(resources.get(Drain), "_handlers", {15: Server().handle})
    assert welcome(resources)[0] == f"docs: {docs}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (None, ".postgres/"),
        ("postgresql://me:canary@db:5432/shop?sslmode=require", "shop at db:5432"),
        ("postgresql:///shop?host=/run", "shop at a socket"),
    ],
)
def test_a_start_tells_which_database_it_has(settings, url, name):
    changed = settings.model_copy(update={"database_url": url and SecretStr(url)})
    told = welcome(create_app(changed).state.resources)
    assert told[1] == f"database: {name} (uv run python -m features psql)"


def test_outside_of_a_request_a_line_has_no_id():
    token = enter_context(RequestContext(request_id="0123456789"))
    inside = lines()
    leave_context(token)
    assert (inside, lines()) == (["INFO    x 01234567"], ["INFO    x"])
