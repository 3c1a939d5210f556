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

from kernel.data.models import TEXT_PATTERN, Email, storable
from kernel.data.pool import Pool
from kernel.data.turns import Load
from kernel.driver_errors import PoolTimeout, ShareTimeout
from kernel.errors import TooManyAtOnce, Unavailable, Unprocessable
from kernel.identity.throttle import Throttle

MIN_LENGTH, MAX_LENGTH = 8, 128
MAX_TYPED_LENGTH = 4 * MAX_LENGTH  # before NFC, a character is made of four code points at most
WAIT_SECONDS = 10.0
ADDRESS = TypeAdapter[str](Email)
NOT_THE_EMAIL = "password should not be the e-mail address"
T = TypeVar("T")


class PasswordVault:
    """Hashes and verifies in threads: on the event loop, four logins froze it for 0.8 s.

    At most `parallel` hashes run at once, each with 19 MiB (OWASP Password Storage Cheat Sheet),
    and half of them for one caller. After a wait of 10 s a request gets a 503 (Unavailable), or a
    429 (TooManyAtOnce) if its caller has its half in use.
    """

    def __init__(self, parallel: int = 2, throttle: Throttle | None = None) -> None:
        self._throttle = throttle
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        # A hash of no password, which costs as much to verify as a real one.
        salt, tag = (b64encode(secrets.token_bytes(n)).decode().rstrip("=") for n in (16, 32))
        self._dummy_hash = f"$argon2id$v=19$m={19 * 1024},t=2,p=1${salt}${tag}"
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
        """Whether the password is the account's; a wrong one counts against the account and the
        client's address. Without a hash: False, at the same cost.

        Raises:
            TooManyRequests: there were too many wrong ones within the window.
        """

        async def verify() -> bool:
            return await self.verify(password_hash, password)

        if self._throttle is None:
            return await verify()
        return await self._throttle.guard(email, user_id, verify)

    async def throttle(self, purpose: str, email: str) -> None:
        """Count an action that a stranger could cause for an account, such as a mail. It has the
        limits of wrong passwords (for account and address, and for each), and counts of its own.

        Raises:
            TooManyRequests: it was done too often within the window.
        """
        if self._throttle is not None:
            await self._throttle.spend(purpose, email)

    async def verify(self, password_hash: str | None, password: SecretStr) -> bool:
        """Whether the password was the hashed one. Without a hash: False, at the same cost."""
        typed = password.get_secret_value()
        if len(typed) > MAX_TYPED_LENGTH or len(secret := _normal(typed)) > MAX_LENGTH:
            return False
        for form in {secret: None, typed: None}:  # older hashes are of the text without NFC
            if await self._in_thread(self._matches, password_hash or self._dummy_hash, form):
                return True
        return False

    @staticmethod
    def is_address(password: SecretStr, email: str) -> bool:
        """Whether the password is the account's e-mail address in any spelling: easy to guess."""
        try:
            return ADDRESS.validate_python(password.get_secret_value()) == email
        except ValidationError:
            return False

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's, and should be made anew."""
        return self._hasher.check_needs_rehash(password_hash)

    @staticmethod
    def ask() -> str:
        """Read a password twice from a terminal, without an echo, or else one line of standard
        input. It is never an argument: other users of the machine can see those, and the shell's
        history keeps them.

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
            # A lone surrogate can be encoded only so; no stored password has one.
            return self._hasher.verify(password_hash, secret.encode(errors="surrogatepass"))
        except (VerificationError, InvalidHashError):
            return False


async def _open_thread() -> CapacityLimiter:
    return CapacityLimiter(1)


async def _close_thread(_: CapacityLimiter) -> None:
    """Nothing to do: anyio keeps its threads."""


def _normal(password: str) -> str:
    """The password in NFC: one text may be typed in several forms (RFC 8265 §4.2.2)."""
    return normalize("NFC", password)


@cache
def _common_passwords() -> frozenset[str]:
    lines = Path(__file__).with_name("common_passwords.txt").read_text().splitlines()
    return frozenset(line for line in lines if line[0] != "#")


def _new_password(password: SecretStr) -> SecretStr:
    text = _normal(storable(password.get_secret_value()))
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:  # composed: four letters with an accent are four
        raise ValueError(f"should have {MIN_LENGTH} to {MAX_LENGTH} characters")
    # NIST SP 800-63B-4 §3.1.1.2: common passwords are guessed first.
    if text.strip().casefold() in _common_passwords():
        raise ValueError("should not be one of the most common passwords")
    return password


Password = Annotated[
    SecretStr,
    Field(
        min_length=MIN_LENGTH,
        max_length=MAX_LENGTH,
        # A docs page would make one up from the pattern, of letters that nobody can type.
        json_schema_extra={"pattern": TEXT_PATTERN, "examples": ["a long passphrase"]},
    ),
    AfterValidator(_new_password),
]
"""A new password: 8 to 128 characters, and none of the most common ones."""
