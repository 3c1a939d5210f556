"""Operator's commands, on the configured or the embedded database:

uv run python -m features.users create EMAIL --admin    make an account; its password is asked for
uv run python -m features.users promote EMAIL           make a user an admin
"""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

# What a command needs is imported when it is run: to ask for help takes no ORM.
if TYPE_CHECKING:
    from features.users.models import Role, User
    from kernel import WriteSession


async def create(email: str, name: str, role: "Role") -> str:
    """Make an account with the password that is typed, or read from standard input."""
    from features.users.models import User, UserCreate  # noqa: PLC0415
    from kernel import PasswordVault, command_session  # noqa: PLC0415

    account = {"email": email, "full_name": name, "password": PasswordVault.ask()}
    data = UserCreate.model_validate(account)
    password_hash = await PasswordVault().hash(data.password)
    async with command_session() as session:
        if await _find(session, email):
            sys.exit("there is a user with this e-mail address")
        values = data.model_dump(exclude={"password"})
        session.add(User(**values, role=role, password_hash=password_hash))
    return f"{data.email} is {'an admin' if role == 'admin' else 'a member'} now"


async def promote(email: str) -> str:
    """Make the user an admin."""
    from kernel import command_session  # noqa: PLC0415

    async with command_session() as session:
        user = await _find(session, email)
        if user is None:
            sys.exit("there is no user with this e-mail address")
        user.role = "admin"
        return f"{user.email} is an admin now"


async def _find(session: "WriteSession", email: str) -> "User | None":
    from sqlmodel import select  # noqa: PLC0415

    from features.users.models import User, normal_email  # noqa: PLC0415

    return (await session.exec(select(User).where(User.email == normal_email(email)))).one_or_none()


async def run(arguments: argparse.Namespace) -> str:
    """Run the command, and return what was done.

    Raises:
        SystemExit: it was not; with a line for each reason.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from kernel import ServiceError  # noqa: PLC0415

    email = arguments.email
    try:
        if arguments.command == "promote":
            return await promote(email)
        role: Role = "admin" if arguments.admin else "member"
        return await create(email, arguments.name or email.partition("@")[0], role)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        sys.exit("\n".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors))
    except ServiceError as error:
        sys.exit(error.message)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m features.users", description=__doc__, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True)
    creating = commands.add_parser("create", help="make an account; its password is asked for")
    creating.add_argument("email")
    creating.add_argument("--name", help="the full name; without it, what stands before the @")
    creating.add_argument("--admin", action="store_true", help="make it an admin's")
    commands.add_parser("promote", help="make a user an admin").add_argument("email")
    sys.stdout.write(f"{asyncio.run(run(parser.parse_args()))}\n")


if __name__ == "__main__":
    main()
