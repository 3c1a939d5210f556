"""Operator's commands: `uv run python -m features.users promote EMAIL` makes a user an admin."""

import argparse
import asyncio
import sys


async def promote(email: str) -> str:
    """Make the user an admin, in the configured or the embedded database."""
    # What a command needs is imported when it is run: to ask for help takes no ORM.
    from sqlmodel import select  # noqa: PLC0415

    from features.users.models import User  # noqa: PLC0415
    from kernel import ServiceError, command_session  # noqa: PLC0415

    try:
        async with command_session() as session:
            user = (await session.exec(select(User).where(User.email == email))).one_or_none()
            if user is None:
                sys.exit("there is no user with this e-mail address")
            user.role = "admin"
            return user.email
    except ServiceError as error:
        sys.exit(error.message)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m features.users", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("promote", help="make a user an admin").add_argument("email")
    promoted = asyncio.run(promote(parser.parse_args().email.strip().lower()))
    sys.stdout.write(f"{promoted} is an admin now\n")


if __name__ == "__main__":
    main()
