"""Operator's commands: `uv run python -m features.users promote EMAIL` makes a user an admin."""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack

from sqlmodel import select

from features.users.models import User
from kernel.data.independent import session_of
from kernel.data.writer import open_writer
from kernel.dev.defaults import embedded_database
from kernel.errors import ServiceError
from kernel.settings import load_settings


async def promote(email: str) -> str | None:
    """Make the user an admin, in the configured or the embedded database; None if there is none."""
    settings = load_settings()
    async with AsyncExitStack() as stack:
        url = settings.primary_url
        if url is None:
            url = await stack.enter_async_context(embedded_database())
        writer = await stack.enter_async_context(open_writer(url, settings))
        async with session_of(writer) as session:
            statement = select(User).where(User.email == email.strip().lower())
            user = (await session.exec(statement)).one_or_none()
            if user is None:
                return None
            user.role = "admin"
            return user.email


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m features.users", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("promote", help="make a user an admin").add_argument("email")
    try:
        promoted = asyncio.run(promote(parser.parse_args().email))
    except ServiceError as error:
        sys.exit(error.message)
    if promoted is None:
        sys.exit("there is no user with this e-mail address")
    sys.stdout.write(f"{promoted} is an admin now\n")


if __name__ == "__main__":
    main()
