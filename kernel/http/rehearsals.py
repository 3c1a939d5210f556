"""`Prefer: tx=rollback`, a dry run: a write is checked, and then rolled back (RFC 7240 §3)."""

from fastapi import Request, Response
from sqlalchemy import text

from kernel.context import HEADER_NAMES
from kernel.data.session import WriteSession
from kernel.errors import BadRequest

DRY_RUN = "tx=rollback"
NO_REHEARSAL = "no dry run: the response holds a secret or a cookie, or is a stream"


def is_rehearsal(request: Request) -> bool:
    """Whether the client wants a dry run."""
    if b"prefer" not in request.scope[HEADER_NAMES]:
        return False
    items = ",".join(request.headers.getlist("prefer")).replace('"', "").lower().split(",")
    return DRY_RUN in (item.partition(";")[0].replace(" ", "") for item in items)


async def rehearse(session: WriteSession, response: Response, *, is_repeatable: bool) -> None:
    """Check everything that COMMIT would check, deferred constraints included, then roll back.

    Raises:
        BadRequest: the response itself has an effect, which no rollback undoes.
    """
    await session.flush()
    await (await session.connection()).execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    await session.rollback()
    if not is_repeatable:
        raise BadRequest(NO_REHEARSAL)
    response.background = None
    response.headers["Preference-Applied"] = DRY_RUN
