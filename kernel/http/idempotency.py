"""`Idempotency-Key`: a write that is sent again is answered again, and done once.

A key belongs to a caller. Its row lies in the transaction of the work itself, so both are stored or
neither. A twin waits for that row and then replays (draft-ietf-httpapi-idempotency-key-header-07
§2.6).
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
from kernel.data.idempotency_keys import STORED, SWEEP, SWEPT_AT_ONCE, TAKE, IdempotencyKey
from kernel.data.independent import open_session
from kernel.data.resources import Resources, resources_of
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

NOT_KEPT = "this was done before; its answer held a secret or a cookie, or was a stream: not kept"
# An answer that is given again has its own.
PER_REQUEST = {b"date", b"server-timing", b"x-request-id"}


@dataclass(frozen=True)
class SentKey:
    """A key as it was sent, and a digest of the content that came with it."""

    key: str
    content: bytes


@dataclass(frozen=True)
class KeyedRequest:
    """A request with a caller's key: `digest` tells whose key for what, `fingerprints` what was
    sent, the first of them with the present secret."""

    digest: bytes
    fingerprints: tuple[bytes, ...]
    retention: timedelta
    has_worker: bool


def read_key(request: Request) -> str:
    """The request's key.

    Raises:
        BadRequest: more than one key, or one that is not 1 to 255 visible characters.
    """
    given = request.headers.getlist("idempotency-key")
    if len(given) != 1 or not re.fullmatch(KEY_PATTERN, given[0]):
        raise BadRequest("Idempotency-Key should be one key of 1 to 255 visible characters")
    return given[0].removeprefix('"').removesuffix('"') if given[0][0] == '"' else given[0]


async def read_ahead(
    route: Operation, request: Request, replay: Replay, *, is_read: bool
) -> SentKey | None:
    """The request's key, if it counts, with what came with it.

    This waits for the client's body where a connection would be held meanwhile: for a key, or when
    a handler reads it itself, behind a dependency that looks for the caller.

    Raises:
        BadRequest: see `read_key`.
    """
    has_key = route.takes_key and b"idempotency-key" in request.scope[HEADER_NAMES]
    if has_key and has_credential(request) and not is_rehearsal(request):
        key = read_key(request)
        if not is_read:
            again = await replay.request()
            request = Request(again.scope, again.receive)  # the bytes, whoever reads them later
        return SentKey(key, await digest_request(request))
    if route.may_read_body:
        async for _ in (await replay.request()).stream():
            pass
    return None


def of_caller(sent: SentKey, request: Request, principal: Principal) -> KeyedRequest:
    """The key as the caller's own, for this method and path. A caller with another role is another
    one: what may be seen depends on it."""
    resources = resources_of(request.app)
    scope = [str(principal.id), principal.role, request.method, request.scope["path"], sent.key]
    return KeyedRequest(
        digest=hashlib.sha256(json.dumps(scope).encode()).digest(),
        # With a secret, because a body may hold a password that a plain hash would let one guess.
        fingerprints=tuple(hmac.digest(key, sent.content, "sha256") for key in resources.mac_keys),
        retention=timedelta(seconds=resources.settings.idempotency_retention),
        has_worker=resources.settings.jobs != "off",
    )


async def claim(session: AsyncSession, keyed: KeyedRequest) -> Response | None:
    """Take the key for the work that follows, or give the answer that it already had.

    Waits while another transaction has the key, as long as the lock timeout allows.

    Raises:
        Unprocessable: the key came with another content before.
        Conflict: the first answer is one that is not kept.
    """
    connection = await session.connection()
    values = {
        "digest": keyed.digest,
        "fingerprint": keyed.fingerprints[0],
        "retention": keyed.retention,
    }
    taken = await connection.execute(TAKE, values)
    if taken.first() is None:
        stored = await connection.execute(STORED, {"digest": keyed.digest})
        return _replay(stored.first(), keyed)
    # Where no job does, one key in 256 cleans up after 256 others.
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
    """Whether the answer is all there is to it, and may be kept: one that is streamed, or sent in a
    way of its own, is not in memory, and secrets and cookies are for whoever asked."""
    context = current_context()
    if route.holds_secret or (context and context.holds_secret):
        return False
    is_plain = type(response).__call__ is Response.__call__
    return is_plain and all(name.lower() != b"set-cookie" for name, _ in response.raw_headers)


@task(external=True, every="1m")
async def sweep_idempotency_keys(resources: Resources) -> None:
    """Take away those that have been kept for as long as they should."""
    retention, swept = timedelta(seconds=resources.settings.idempotency_retention), SWEPT_AT_ONCE
    while swept == SWEPT_AT_ONCE:
        async with open_session() as session:
            connection = await session.connection()
            swept = (await connection.execute(SWEEP, {"retention": retention})).rowcount


async def keep(
    session: AsyncSession, keyed: KeyedRequest, response: Response, *, is_repeatable: bool
) -> None:
    """Store the answer with the work; of one that may not be repeated only that it was given.

    Raises:
        Conflict: the handler has rolled back, the key's row with it, and a twin has it now.
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
