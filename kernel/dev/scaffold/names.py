"""Checks of new names: whether Python and PostgreSQL allow them, and whether they are free."""

import builtins
import keyword
import re

from sqlalchemy import make_url

from kernel.dev.scaffold.survey import Refusal, Survey

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
POSTGRES = make_url("postgresql+asyncpg://").get_dialect()()
LONGEST = 40  # characters; longer ones would not fit into lines of 100
IDENTIFIER = 63  # bytes (PostgreSQL manual §4.1.1)
# Folders, paths and tables that are no slice's; `peelings` is a slice of the kernel's tests.
RESERVED = {"kernel", "shared", "docs", "openapi", "redoc", "alembic_version", "peelings"}
ENDINGS = {
    r"(?<=.{2})ies": "y",
    r"(?<=ss|sh|.x)es": "",
    r"(?<=[nrt]ch)es": "",
    r"(?<=[^aeo]us)es": "",
    r"(?<=[^sui])s": "",
}


def check_name(name: str) -> str:
    """The name as it is.

    Raises:
        Refusal: it is no lower-case identifier, is a keyword or a builtin, or is too long.
    """
    if not NAME.fullmatch(name):
        raise Refusal(
            f"{name!r} is no name: write lower-case letters, digits and single underscores"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or hasattr(builtins, name):
        raise Refusal(f"{name!r} is a word of Python's: choose another")
    if len(name) > LONGEST:
        raise Refusal(f"{name!r} is too long: {LONGEST} characters at most")
    return name


def check_slice(name: str, existing: Survey, service: set[str]) -> None:
    """Refuse an invalid name, or one of a folder, table, path or variable that exists already."""
    check_name(name)
    folders, tables = existing.paths.keys(), existing.tables.keys()
    if name in RESERVED | folders | tables | existing.roots | service:
        raise Refusal(f"{name!r} is taken: choose another")
    if POSTGRES.identifier_preparer.quote(name) != name or name.startswith("pg_"):
        raise Refusal(f"{name!r} is a word of PostgreSQL's: choose another")


def check_length(*names: str) -> None:
    """Refuse names of columns, indexes and constraints that PostgreSQL would truncate."""
    if long := [name for name in names if len(name) > IDENTIFIER]:
        raise Refusal(f"{long[0]!r} is too long for PostgreSQL: {IDENTIFIER} bytes at most")


def class_name(name: str) -> str:
    """The class's name: `CardNumber` for `card_number`."""
    return "".join(word.capitalize() for word in name.split("_"))


def singular(name: str) -> str:
    """The singular of a plural, by those rules of English that have few exceptions.

    Raises:
        Refusal: no rule applies.
    """
    for ending, one in ENDINGS.items():
        if re.search(f"{ending}$", name):
            return re.sub(f"{ending}$", one, name)
    raise Refusal(f"{name!r} has no known singular: name one of them with --singular")
