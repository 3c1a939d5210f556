<%
    plural = name.replace("_", " ")
    article = "an" if words[0] in "aeio" else "a"
%>\
% if is_owned:
"""${plural.capitalize()}, each its owner's alone; admins see all."""
% else:
"""${plural.capitalize()}, for everybody who has signed in."""
% endif

from typing import Annotated

from fastapi import Query

from kernel import CurrentUser, Id, Page, Paging, Reader, Router, Session
from features.${name} import handlers
from features.${name}.models import ${row}Create, ${f"{row}Filter, " if filters or is_owned else ""}${row}Public, ${row}Update

<%
    me = "me" if is_owned else "_"
    me_argument = "me, " if is_owned else ""
    filter_parameter = f", filters: Annotated[{row}Filter, Query()]" if filters or is_owned else ""
    filter_argument = ", filters" if filters or is_owned else ""
%>\
router = Router(prefix="/${name}", tags=["${name}"])


@router.post("", status_code=201)
async def create_${one}(data: ${row}Create, ${me}: CurrentUser, session: Session) -> ${row}Public:
    """Make ${article} ${words}${", which is the caller's own" if is_owned else ""}."""
    return await handlers.create_${one}(session, ${me_argument}data)


@router.get("")
async def list_${name}(${me}: CurrentUser, reader: Reader, paging: Paging${filter_parameter}) -> Page[${row}Public]:
    """${"The caller's own " + plural + ", or an admin's view of all" if is_owned else "All " + plural}, page by page."""
    return await handlers.list_${name}(reader, ${me_argument}paging${filter_argument})


@router.get("/{${one}_id}")
async def get_${one}(${one}_id: Id, ${me}: CurrentUser, reader: Reader) -> ${row}Public:
    """One ${words}.${" Somebody else's is a 404." if is_owned else ""}"""
    return await handlers.get_${one}(reader, ${me_argument}${one}_id)


@router.patch("/{${one}_id}")
async def update_${one}(${one}_id: Id, data: ${row}Update, ${me}: CurrentUser, session: Session) -> ${row}Public:
    """Change the fields that are sent. With `If-Match`, only the version that was read."""
    return await handlers.update_${one}(session, ${me_argument}${one}_id, data)


@router.delete("/{${one}_id}", status_code=204)
async def delete_${one}(${one}_id: Id, ${me}: CurrentUser, session: Session) -> None:
    """Delete the ${words}."""
    await handlers.delete_${one}(session, ${me_argument}${one}_id)
