from sqlalchemy import bindparam
from sqlmodel import select

from kernel import NotFound, Page, Pager, Principal, ReadPool, WriteSession
from features.${name}.models import ${row}, ${row}Create, ${f"{row}Filter, " if filters or is_owned else ""}${row}Public, ${row}Update

<%
    me = "me: Principal, " if is_owned else ""
    me_argument = "me, " if is_owned else ""
%>\
ALL = select(${row})
BY_ID = ALL.where(${row}.id == bindparam("id"))
% if is_owned:
OWN = ALL.where(${row}.owner_id == bindparam("owner_id"))
% endif


async def get_${one}(reader: ReadPool, ${me}${one}_id: int) -> ${row}Public:
    ${one} = await reader.first(${row}Public, BY_ID, id=${one}_id)
% if is_owned:
    if ${one} is None or not _may_see(me, ${one}.owner_id):
% else:
    if ${one} is None:
% endif
        raise NotFound("${words}", ${one}_id)
    return ${one}


% if is_owned:
async def list_${name}(reader: ReadPool, me: Principal, pager: Pager, filters: ${row}Filter) -> Page[${row}Public]:
    owner = {} if me.is_admin else {"owner_id": me.id}
    statement = filters.apply(ALL if me.is_admin else OWN)
    return await pager.fetch(reader, ${row}Public, statement, "-id", **owner, **filters.values())
% elif filters:
async def list_${name}(reader: ReadPool, pager: Pager, filters: ${row}Filter) -> Page[${row}Public]:
    statement = filters.apply(ALL)
    return await pager.fetch(reader, ${row}Public, statement, "-id", **filters.values())
% else:
async def list_${name}(reader: ReadPool, pager: Pager) -> Page[${row}Public]:
    return await pager.fetch(reader, ${row}Public, ALL, "-id")
% endif


async def create_${one}(session: WriteSession, ${me}data: ${row}Create) -> ${row}Public:
    return await session.insert(${row}, ${row}Public, **data.model_dump()${", owner_id=me.id" if is_owned else ""})


async def update_${one}(session: WriteSession, ${me}${one}_id: int, data: ${row}Update) -> ${row}Public:
    ${one} = await _find(session, ${me_argument}${one}_id)
    ${one}.sqlmodel_update(data.model_dump(exclude_unset=True))
    await session.flush()
    return ${row}Public.model_validate(${one})


async def delete_${one}(session: WriteSession, ${me}${one}_id: int) -> None:
    await session.delete(await _find(session, ${me_argument}${one}_id))
    await session.flush()


async def _find(session: WriteSession, ${me}${one}_id: int) -> ${row}:
    ${one} = await session.get(${row}, ${one}_id)
% if is_owned:
    if ${one} is None or not _may_see(me, ${one}.owner_id):
% else:
    if ${one} is None:
% endif
        raise NotFound("${words}", ${one}_id)
    return ${one}


% if is_owned:
def _may_see(me: Principal, owner_id: int) -> bool:
    return me.is_admin or me.id == owner_id
% endif
