"""The developers' commands: write or remove a slice, merge branches, accept the API's changes.

And three for the database: psql on it, an empty one, and rows for development.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from kernel.dev.database import psql, reset
from kernel.dev.scaffold.breaks import broken
from kernel.dev.scaffold.commands import merge, new, remove
from kernel.dev.scaffold.contract import read_contract, write_contract
from kernel.dev.scaffold.survey import Refusal
from kernel.dev.scaffold.tree import Contents, apply, changes, contents, diff, draft_of
from kernel.dev.seeds import seed
from kernel.errors import CannotStart

ROOT = Path(__file__).parents[3]
NEXT = """
next:
  uv run pytest
  uv run alembic upgrade head    (the embedded database: at the next start)
"""
NOTHING = {
    "contract": "openapi.json says so already\n",
    "merge": "nothing to do: the migrations have one head, and openapi.json is up to date\n",
}
SURE = "This deletes all rows of the development database. Continue? [y/N] "
FIELDS = (
    "name:type, name:type? (optional), name:type! (unique), 'name:choice(a,b)', owner, ref:TABLE"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(message)


def parser() -> Parser:
    parser = Parser(prog="python -m features", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("new", help="write a slice, mount it, and write its migration")
    command.add_argument("name", help="the folder, the table and the path: a plural")
    command.add_argument("fields", nargs="*", metavar="field", help=FIELDS)
    command.add_argument("--singular", help="the name of one row")
    other = commands.add_parser("remove", help="remove a slice, and drop its tables")
    other.add_argument("name")
    other.add_argument("--force", action="store_true", help="even if it has uncommitted changes")
    third = commands.add_parser("contract", help="accept what the API is now, in openapi.json")
    fourth = commands.add_parser(
        "merge", help="after a git merge: both sides' features, one head, a new openapi.json"
    )
    for changing in (command, other, third, fourth):
        changing.add_argument("--dry-run", action="store_true", help="show the diff, write nothing")
    help_text = "open PostgreSQL's prompt on the database, with psql's own options, such as -c"
    commands.add_parser("psql", help=help_text)
    empty = commands.add_parser("reset", help="empty the database that comes with the service")
    empty.add_argument("--yes", action="store_true", help="without asking")
    commands.add_parser("seed", help="make rows to develop with: each slice's seed.py")
    return parser


def run(arguments: Sequence[str], root: Path = ROOT) -> str:
    """Run a command and return its output. One that changes the tree works in a copy of it, and
    then copies all changes back, or none.

    Raises:
        Refusal: the command cannot be done; nothing is changed.
    """
    options, others = parser().parse_known_args(arguments)
    if options.command == "psql":
        sys.exit(psql(others))
    if others:
        raise Refusal(f"unrecognized arguments: {' '.join(others)}")
    if options.command == "reset":
        if options.yes or confirms(SURE):
            asyncio.run(reset())
            return ""
        return "nothing is changed\n"
    if options.command == "seed":
        return asyncio.run(seed())
    with draft_of(root) as draft:
        before, old_contract = contents(draft), read_contract(draft)
        work(root, draft, options)
        write_contract(draft)
        changed = changes(before, contents(draft))
        if options.dry_run:
            return diff(before, changed)
        apply(root, before, changed)
        breaks = broken(old_contract, read_contract(draft))
        warnings = [f"breaks clients: {line}\n" for line in breaks]
    wrote = [f"{sign(before, changed, name)} {name}\n" for name in changed]
    if not wrote:
        return NOTHING[options.command]
    return "".join([*wrote, *warnings, NEXT if options.command != "contract" else ""])


def work(root: Path, draft: Path, options: argparse.Namespace) -> None:
    """Run the command in the draft."""
    if options.command == "new":
        new(draft, options.name, options.fields, options.singular)
    elif options.command == "remove":
        if not options.force:
            is_committed(root, options.name)
        remove(draft, options.name)
    elif options.command == "merge":
        merge(draft)


def confirms(question: str) -> bool:
    return input(question).strip().lower() in {"y", "yes"}


def sign(before: Contents, changed: Mapping[str, bytes | None], name: str) -> str:
    return "-" if changed[name] is None else "~" if name in before else "+"


def is_committed(root: Path, name: str) -> None:
    """Refuse to remove a slice with files that git does not have."""
    command = ["git", "status", "--porcelain", "--", f"features/{name}"]
    try:
        status = subprocess.run(  # noqa: S603  # the words are checked
            command, cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return
    if status.stdout:
        raise Refusal(f"features/{name} holds what is not committed: commit it, or use --force")


def stop(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the cleaning up
    raise KeyboardInterrupt


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        sys.stdout.write(run(sys.argv[1:]))
    except (Refusal, CannotStart, OSError) as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("stopped: nothing is written")


if __name__ == "__main__":
    main()
