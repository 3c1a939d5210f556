"""A migration that cannot be read, or fails, is one line: where, what, and what to do."""

import asyncpg
import pytest
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy.exc import ProgrammingError

from kernel.data.migration_errors import explain
from kernel.data.schema import VERSIONS, BrokenHistory, find_heads
from kernel.errors import CannotStart
from kernel.tests.app import create_app

STEP = 'revision = "{}"\ndown_revision = {!r}\n'


def history(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.py").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    return find_heads(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", r"b\.py has no revision ="),
        (STEP.format("b", "a").replace("revision", "revison", 1), r"b\.py has no revision ="),
        (STEP.format("b", "a").encode("utf-16"), r"b\.py should be UTF-8"),
        (STEP.format("a", "a"), r"a\.py and b\.py have the same revision id a"),
        (STEP.format("b", "x"), r"b\.py follows x, which no file has"),
        (STEP.format("b", ("a", "x")), r"b\.py follows x, which no file has"),
        (STEP.format("b", "b"), "the migrations b follow each other in a circle"),
    ],
)
def test_a_file_that_does_not_belong_to_the_history_is_named(tmp_path, content, told):
    with pytest.raises(BrokenHistory, match=told):
        history(tmp_path, a=STEP.format("a", None), b=content)


def test_a_circle_of_several_is_named(tmp_path):
    files = {"b": STEP.format("b", "c"), "c": STEP.format("c", "b")}
    with pytest.raises(BrokenHistory, match="b, c follow each other"):
        history(tmp_path, a=STEP.format("a", None), **files)


def test_branches_and_their_merge_are_a_history(tmp_path):
    two = {"b": STEP.format("b", "a"), "c": STEP.format("c", "a")}
    assert history(tmp_path, a=STEP.format("a", None), **two) == {"b", "c"}
    assert history(tmp_path, d=STEP.format("d", ("b", "c"))) == {"d"}


def raised(source, **names):
    """The error of a step with this text in its fourth line."""
    try:
        exec(compile(f"\n\n\n{source}", str(VERSIONS / "x.py"), "exec"), names)  # noqa: S102
    except Exception as error:  # noqa: BLE001  # whatever the source raises
        return error


def refused():
    cause = asyncpg.UndefinedTableError('relation "nowhere" does not exist')
    wrapped = Exception()
    wrapped.__cause__ = cause
    raise ProgrammingError("SELECT * FROM nowhere", {}, wrapped)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("op.execute('x'", "SyntaxError: '(' was never closed"),
        ("  x = 1\n y = 2", "IndentationError: unexpected indent"),
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("nope()", "NameError: name 'nope' is not defined"),
        ("refused()", 'UndefinedTableError 42P01: relation "nowhere" does not exist'),
        ("raise ValueError('canary')", "ValueError"),
        ("raise CommandError('x') from ValueError()", None),
    ],
)
def test_what_has_stopped_a_step_is_a_line_with_its_place(source, told):
    error = raised(source, refused=refused, CommandError=CommandError)
    place = f"migrations/versions/x.py, line 4: {told}: correct it, and start again"
    assert explain(error) == (place if told else "x")


def test_an_errors_message_is_told_where_it_may_be():
    assert "ValueError: canary: correct" in explain(raised("raise ValueError('canary')"), full=True)


def test_a_revision_that_only_the_database_knows_is_told_as_that():
    error = CommandError("Can't locate revision identified by 'zzzz'")
    error.__cause__ = ResolutionError("No such revision", "zzzz")
    assert explain(error).startswith("the database is at the revision zzzz, which no file")


def test_what_is_nobodys_file_is_told_without_a_place():
    told = explain(ConnectionRefusedError(111, "Connection refused"))
    assert told == "the migrations cannot be run: ConnectionRefusedError: Connection refused"
    assert explain(TimeoutError()).startswith("another process has been migrating")


@pytest.mark.parametrize(
    ("error", "log_level", "is_one_line"),
    [
        (CannotStart("mend it"), "INFO", True),
        (CannotStart("mend it"), "DEBUG", False),
        (ValueError("mend it"), "INFO", False),
    ],
)
async def test_a_start_that_cannot_be_is_told_in_one_line(settings, error, log_level, is_one_line):
    app = create_app(settings.model_copy(update={"log_level": log_level}))

    app.router.lifespan_context = lambda _: FailingLifespan(error)
    told = []

    async def receive():
        return {"type": "lifespan.startup"}

    async def send(message):
        told.append(message)

    with pytest.raises(type(error)):
        await app({"type": "lifespan", "app": app, "state": {}}, receive, send)
    (message,) = told
    assert message["type"] == "lifespan.startup.failed"
    assert (message["message"] == "mend it") is is_one_line
    assert ("Traceback" in message["message"]) is not is_one_line


class FailingLifespan:
    def __init__(self, error):
        self.error = error

    async def __aenter__(self):
        raise self.error

    async def __aexit__(self, *_): ...
