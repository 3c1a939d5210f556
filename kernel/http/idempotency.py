"""`Idempotency-Key`: a write that is sent again is answered again, and done once.

The key's row lies in the transaction of the work itself, so both are stored or neither. A twin
waits for that row and then replays (draft-ietf-httpapi-idempotency-key-header-07 §2.6).
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import Request, Response
from sqlalchemy import Row, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from kernel.data.idempotency_keys import STORED, SWEEP, TAKE, IdempotencyKey
from kernel.data.resources import resources_of
from kernel.data.sqlstate import TRY_AGAIN
from kernel.errors import BadRequest, Conflict, Unprocessable
from kernel.http.openapi import KEY_PATTERN
from kernel.identity.principal import Principal


@dataclass(frozen=True)
class KeyedRequest:
    """A request with a key: `digest` tells whose key for what, `fingerprint` what was sent."""

    digest: bytes
    fingerprint: bytes
    retention: timedelta


async def read_key(request: Request, principal: Principal | None) -> KeyedRequest:
    """The request's key, which is the caller's own for this method and path.

    Raises:
        BadRequest: more than one key, or one that is not 1 to 255 visible characters.
    """
    given = request.headers.getlist("idempotency-key")
    if len(given) != 1 or not re.fullmatch(KEY_PATTERN, given[0]):
        raise BadRequest("Idempotency-Key should be one key of 1 to 255 visible characters")
    key = given[0].removeprefix('"').removesuffix('"') if given[0][0] == '"' else given[0]
    resources = resources_of(request.app)
    caller, url = principal.id if principal else 0, request.url
    scope = f"{caller} {request.method} {url.path} {key}"
    # With a secret, because a body may hold a password that a plain hash would let one guess.
    sent = hmac.new(resources.mac_key, url.query.encode() + b"\n", hashlib.sha256)
    sent.update(await request.body())
    return KeyedRequest(
        digest=hashlib.sha256(scope.encode()).digest(),
        fingerprint=sent.digest(),
        retention=timedelta(seconds=resources.settings.idempotency_retention),
    )


async def claim(session: AsyncSession, keyed: KeyedRequest) -> Response | None:
    """Take the key for the work that follows, or give the answer that it already had.

    Waits while another transaction has the key, as long as the lock timeout allows.

    Raises:
        Unprocessable: the key came with another body before.
        Conflict: the first answer held a secret, so it was not kept.
    """
    connection = await session.connection()
    values = {
        "digest": keyed.digest,
        "fingerprint": keyed.fingerprint,
        "retention": keyed.retention,
    }
    taken = await connection.execute(TAKE, values)
    if taken.first() is None:
        stored = await connection.execute(STORED, {"digest": keyed.digest})
        return _replay(stored.first(), keyed)
    # One key in 256 cleans up after 256 others, so that no scheduler has to.
    if keyed.digest[0] == 0:
        await connection.execute(SWEEP, {"retention": keyed.retention})
    return None


def _replay(stored: Row[Any] | None, keyed: KeyedRequest) -> Response:
    if stored is None:
        raise Conflict(TRY_AGAIN)  # swept in this very moment
    if stored.fingerprint != keyed.fingerprint:
        raise Unprocessable("this Idempotency-Key was used for another request")
    if stored.body is None:
        raise Conflict("this was done before; its answer held a secret and was not kept")
    response = Response(stored.body, stored.status)
    response.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in stored.headers
    ]
    response.headers["Idempotent-Replayed"] = "true"
    return response


async def keep(
    session: AsyncSession, keyed: KeyedRequest, response: Response, *, secret: bool
) -> None:
    """Store the answer with the work; of one that holds a secret only that it was given.

    Raises:
        Conflict: the handler has rolled back, the key's row with it, and a twin has it now.
    """
    headers = [
        [name.decode("latin-1"), value.decode("latin-1")] for name, value in response.raw_headers
    ]
    kept = {"headers": headers, "body": bytes(response.body)}
    values = {"status": response.status_code, **({} if secret else kept)}
    store = update(IdempotencyKey).where(col(IdempotencyKey.digest) == keyed.digest).values(values)
    connection = await session.connection()
    if (await connection.execute(store)).rowcount:
        return
    if await claim(session, keyed):
        raise Conflict(TRY_AGAIN, headers={"Retry-After": "1"})
    await connection.execute(store)
