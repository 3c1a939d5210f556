"""`Idempotency-Key`: a write that is sent again gets the stored response, and is done once.

A key belongs to a caller. Its row is written in the transaction of the work, so both are stored or
neither. A concurrent request with the same key waits for that row and then gets its response
(draft-ietf-httpapi-idempotency-key-header-07 §2.6).
"""

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import Request, Response
from sqlalchemy import Row, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from kernel.context import HEADER_NAMES, current_context
from kernel.data.idempotency_keys import STORED, SWEEP, TAKE, IdempotencyKey
from kernel.data.resources import Resources, resources_of
from kernel.data.sweeps import sweep
from kernel.data.violations import TRY_AGAIN
from kernel.errors import BadRequest, Conflict, Unprocessable
from kernel.http.attempts import Replay
from kernel.http.fingerprints import digest_request
from kernel.http.openapi import KEY_PATTERN
from kernel.http.operation import Operation
from kernel.http.rehearsals import is_rehearsal
from kernel.identity.callers import has_credential
from kernel.identity.principal import Principal
from kernel.jobs.tasks import task

NOT_KEPT = "this was done before; its response is not kept: it had a secret, a cookie or a stream"
# Headers that a replayed response gets anew.
PER_REQUEST = {b"date", b"server-timing", b"x-request-id"}


@dataclass(frozen=True)
class SentKey:
    """A key as it was sent, and the digest of the request's content."""

    key: str
    content: bytes


@dataclass(frozen=True)
class KeyedRequest:
    """A request with a caller's key. `digest` identifies caller, operation and key; `fingerprints`
    identify the content, the first of them with the present secret, others with older ones."""

    digest: bytes
    fingerprints: tuple[bytes, ...]
    retention: timedelta
    has_worker: bool


def read_key(request: Request) -> str:
    """The request's key.

    Raises:
        BadRequest: more than one key, or one that is not 1 to 255 visible characters.
    """
    values = request.headers.getlist("idempotency-key")
    if len(values) != 1 or not re.fullmatch(KEY_PATTERN, values[0]):
        raise BadRequest("Idempotency-Key should be one key of 1 to 255 visible characters")
    return values[0].removeprefix('"').removesuffix('"') if values[0][0] == '"' else values[0]


async def read_ahead(
    route: Operation, request: Request, replay: Replay, *, is_read: bool
) -> SentKey | None:
    """The request's key and the digest of its content; None if the operation takes no key, there is
    none, or the caller sends no credential or wants a dry run.

    The body is read here, before a connection is taken, if it is needed while one is held: for the
    digest, or when the handler reads the body itself, after a dependency has looked up the caller.

    Raises:
        BadRequest: see `read_key`.
    """
    has_key = route.takes_key and b"idempotency-key" in request.scope[HEADER_NAMES]
    if has_key and has_credential(request) and not is_rehearsal(request):
        key = read_key(request)
        if not is_read:
            attempt = await replay.request()
            request = Request(attempt.scope, attempt.receive)  # the raw bytes, whatever its class
        return SentKey(key, await digest_request(request))
    if route.may_read_body:
        async for _ in (await replay.request()).stream():
            pass
    return None


def of_caller(sent: SentKey, request: Request, principal: Principal) -> KeyedRequest:
    """The key for this caller, method and path. With another role it is another key: what a caller
    may see depends on the role."""
    resources = resources_of(request.app)
    scope = [str(principal.id), principal.role, request.method, request.scope["path"], sent.key]
    return KeyedRequest(
        digest=hashlib.sha256(json.dumps(scope).encode()).digest(),
        # Keyed, because a body may hold a password, which could be guessed from a plain hash.
        fingerprints=tuple(hmac.digest(key, sent.content, "sha256") for key in resources.mac_keys),
        retention=timedelta(seconds=resources.settings.idempotency_retention),
        has_worker=resources.settings.jobs != "off",
    )


async def claim(session: AsyncSession, keyed: KeyedRequest) -> Response | None:
    """Insert the key for the work that follows, and return None, or return the stored response.

    Waits while another transaction holds the key, as long as the lock timeout allows.

    Raises:
        Unprocessable: the key was used with other content before.
        Conflict: the first response is one that is not stored.
    """
    connection = await session.connection()
    values = {
        "digest": keyed.digest,
        "fingerprint": keyed.fingerprints[0],
        "retention": keyed.retention,
    }
    inserted = await connection.execute(TAKE, values)
    if inserted.first() is None:
        stored = await connection.execute(STORED, {"digest": keyed.digest})
        return _replay(stored.first(), keyed)
    # Without a worker, no job sweeps: one key in 256 does it for all.
    if keyed.digest[0] == 0 and not keyed.has_worker:
        await connection.execute(SWEEP, {"retention": keyed.retention})
    return None


def _replay(stored: Row[Any] | None, keyed: KeyedRequest) -> Response:
    if stored is None:
        raise Conflict(TRY_AGAIN)  # swept in this very moment
    if stored.fingerprint not in keyed.fingerprints:
        raise Unprocessable("this Idempotency-Key was used for another request")
    if stored.body is None:
        raise Conflict(NOT_KEPT)
    response = Response(stored.body, stored.status)
    response.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in stored.headers
    ]
    response.headers["Idempotent-Replayed"] = "true"
    return response


def may_be_repeated(response: Response, route: Operation) -> bool:
    """Whether the response can be stored and given again: a streamed one, or one with a `__call__`
    of its own, is not in memory, and secrets and cookies are for the first request alone."""
    context = current_context()
    if route.holds_secret or (context and context.holds_secret):
        return False
    is_plain = type(response).__call__ is Response.__call__
    return is_plain and all(name.lower() != b"set-cookie" for name, _ in response.raw_headers)


@task(external=True, every="10m")
async def sweep_idempotency_keys(resources: Resources) -> None:
    """Delete the keys that are older than the retention."""
    await sweep(SWEEP, retention=timedelta(seconds=resources.settings.idempotency_retention))


async def keep(
    session: AsyncSession, keyed: KeyedRequest, response: Response, *, is_repeatable: bool
) -> None:
    """Store the response in the transaction of the work; if it is not repeatable, its status only.

    Raises:
        Conflict: the handler has rolled back, and the key's row with it, and a concurrent request
            with the same key has taken it since.
    """
    values: dict[str, Any] = {"status": response.status_code, "headers": None, "body": None}
    if is_repeatable:
        values["body"] = bytes(response.body)
        values["headers"] = [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in response.raw_headers
            if name.lower() not in PER_REQUEST
        ]
    store = update(IdempotencyKey).where(col(IdempotencyKey.digest) == keyed.digest).values(values)
    connection = await session.connection()
    if (await connection.execute(store)).rowcount:
        return
    if await claim(session, keyed):
        raise Conflict(TRY_AGAIN, headers={"Retry-After": "1"})
    await connection.execute(store)
