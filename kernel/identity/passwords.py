"""Password hashes: argon2id with at least OWASP's parameters, in threads, a few at a time."""

import secrets
import sys
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from getpass import getpass
from pathlib import Path
from typing import Annotated, TypeVar
from unicodedata import normalize

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, ValidationError

from kernel.data.models import STORABLE, Email, storable
from kernel.data.pool import Pool
from kernel.data.turns import Load
from kernel.driver_errors import PoolTimeout, ShareTimeout
from kernel.errors import TooManyAtOnce, Unavailable, Unprocessable
from kernel.identity.throttle import Throttle

MIN_LENGTH, MAX_LENGTH = 8, 128
MOST_GIVEN = 4 * MAX_LENGTH  # a composed character is made of four others at most
WAIT_SECONDS = 10.0
ADDRESS = TypeAdapter[str](Email)
NOT_THE_EMAIL = "password should not be the e-mail address"
T = TypeVar("T")


class PasswordVault:
    """Hashes and verifies off the event loop: inline, four logins froze it for 0.8 s.

    At most `parallel` hashes run at once, each with 19 MiB (OWASP Password Storage Cheat Sheet),
    and for one caller half of them: who waits for longer than 10 s is told to come again.
    """

    def __init__(self, parallel: int = 2, throttle: Throttle | None = None) -> None:
        self._throttle = throttle
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        # What no password has hashed to, but costs as much to verify.
        salt, tag = (b64encode(secrets.token_bytes(n)).decode().rstrip("=") for n in (16, 32))
        self._nobodys = f"$argon2id$v=19$m={19 * 1024},t=2,p=1${salt}${tag}"
        self._threads = Pool(
            _open_thread, _close_thread, size=parallel, keep=parallel, timeout=WAIT_SECONDS
        )

    async def hash(self, password: SecretStr, email: str | None = None) -> str:
        """The hash of a new password, of an account with this address, if it has one.

        Raises:
            Unprocessable: the password is the address.
        """
        if email is not None and self.is_address(password, email):
            raise Unprocessable(NOT_THE_EMAIL)
        secret = _normal(password.get_secret_value())
        return await self._in_thread(self._hasher.hash, secret)

    async def check(
        self, email: str, user_id: int | None, password_hash: str | None, password: SecretStr
    ) -> bool:
        """Whether a caller has given the account's password; what is wrong counts, for the account
        and the caller's address. Without a hash: False, at the same cost.

        Raises:
            TooManyRequests: it was wrong too often of late.
        """

        async def verify() -> bool:
            return await self.verify(password_hash, password)

        if self._throttle is None:
            return await verify()
        return await self._throttle.guard(email, user_id, verify)

    async def throttle(self, purpose: str, email: str) -> None:
        """Count what a caller asks for in the name of an account that may be another's: as often as
        a password may be wrong, for the two and for each, and apart from these.

        Raises:
            TooManyRequests: it was too often of late.
        """
        if self._throttle is not None:
            await self._throttle.spend(purpose, email)

    async def verify(self, password_hash: str | None, password: SecretStr) -> bool:
        """Whether the password was the hashed one. Without a hash: False, at the same cost."""
        given = password.get_secret_value()
        if len(given) > MOST_GIVEN or len(secret := _normal(given)) > MAX_LENGTH:
            return False
        for form in {secret: None, given: None}:  # hashes of before were made of what was given
            if await self._in_thread(self._matches, password_hash or self._nobodys, form):
                return True
        return False

    @staticmethod
    def is_address(password: SecretStr, email: str) -> bool:
        """Whether the password is the account's address, in any of its forms, which is guessed."""
        try:
            return ADDRESS.validate_python(password.get_secret_value()) == email
        except ValidationError:
            return False

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the parameters have risen since this hash was made."""
        return self._hasher.check_needs_rehash(password_hash)

    @staticmethod
    def ask() -> str:
        """What is typed twice without an echo or, where nobody types, the first line of standard
        input. Never an argument: other users of the machine see those, and so does the shell's
        history.

        Raises:
            SystemExit: the two differ.
        """
        if not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            sys.exit("the two passwords differ")
        return password

    def load(self) -> Load:
        """How many hashes may run at once, how many run, and how many wait."""
        return self._threads.load()

    async def _in_thread(self, work: Callable[..., T], *texts: str) -> T:
        try:
            thread = await self._threads.take()
        except ShareTimeout:
            raise TooManyAtOnce from None
        except PoolTimeout:
            raise Unavailable("too many passwords are being verified; try again") from None
        try:
            return await to_thread.run_sync(work, *texts, limiter=thread)
        finally:
            self._threads.give_back(thread)

    def _matches(self, password_hash: str, secret: str) -> bool:
        try:
            # Half of a surrogate pair is no character, and no password has one.
            return self._hasher.verify(password_hash, secret.encode(errors="surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False


async def _open_thread() -> CapacityLimiter:
    return CapacityLimiter(1)


async def _close_thread(_: CapacityLimiter) -> None:
    """A thread is anyio's, which keeps it."""


def _normal(password: str) -> str:
    """One text for what looks and is typed the same (RFC 8265 §4.2.2)."""
    return normalize("NFC", password)


@cache
def _common_passwords() -> frozenset[str]:
    lines = Path(__file__).with_name("common_passwords.txt").read_text().splitlines()
    return frozenset(line for line in lines if line[0] != "#")


def _new_password(password: SecretStr) -> SecretStr:
    text = _normal(storable(password.get_secret_value()))
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:  # composed: four letters with an accent are four
        raise ValueError(f"should have {MIN_LENGTH} to {MAX_LENGTH} characters")
    # NIST SP 800-63B-4 §3.1.1.2: what many have chosen is guessed first.
    if text.strip().casefold() in _common_passwords():
        raise ValueError("should not be one that many people have")
    return password


Password = Annotated[
    SecretStr,
    Field(
        min_length=MIN_LENGTH, max_length=MAX_LENGTH, json_schema_extra=STORABLE.json_schema_extra
    ),
    AfterValidator(_new_password),
]
"""A new password: 8 to 128 characters, and none of the most common ones."""
