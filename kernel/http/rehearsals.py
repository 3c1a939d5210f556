"""`Prefer: tx=rollback`: a write is checked and answered, and then undone (RFC 7240 §3)."""

from fastapi import Request, Response
from sqlalchemy import text

from kernel.context import HEADER_NAMES
from kernel.data.session import WriteSession
from kernel.errors import BadRequest

DRY_RUN = "tx=rollback"
NO_REHEARSAL = "no dry run of this: its answer would be good, a secret, a cookie or a stream"


def is_rehearsal(request: Request) -> bool:
    """Whether the client wants a dry run."""
    if b"prefer" not in request.scope[HEADER_NAMES]:
        return False
    given = ",".join(request.headers.getlist("prefer")).replace('"', "").lower()
    preferences = (each.partition(";")[0].replace(" ", "") for each in given.split(","))
    return DRY_RUN in preferences


async def rehearse(session: WriteSession, response: Response, *, is_repeatable: bool) -> None:
    """Let everything be checked that COMMIT would check, then undo it.

    Raises:
        BadRequest: the answer itself is the effect, and nothing takes that back.
    """
    await session.flush()
    await (await session.connection()).execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    await session.rollback()
    if not is_repeatable:
        raise BadRequest(NO_REHEARSAL)
    response.background = None
    response.headers["Preference-Applied"] = DRY_RUN
