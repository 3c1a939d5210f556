from functools import cache
from typing import Any, Literal

from sqlalchemy import Select, bindparam
from sqlmodel import col, select

from kernel import NotFound, Page, Pager, Principal, ReadPool, WriteSession, like

from .models import Peeling, PeelingCreate, PeelingPublic, PeelingUpdate

Order = Literal["id", "-id", "title", "-title"]
BY_ID = select(Peeling).where(Peeling.id == bindparam("id"))


@cache
def _listed(everybodys: bool, searched: bool) -> Select[*tuple[Any, ...]]:
    peelings = select(Peeling)
    if not everybodys:
        peelings = peelings.where(Peeling.owner_id == bindparam("owner_id"))
    return peelings.where(col(Peeling.title).ilike(bindparam("pattern"))) if searched else peelings


async def get_peeling(reader: ReadPool, me: Principal, peeling_id: int) -> PeelingPublic:
    peeling = await reader.first(PeelingPublic, BY_ID, id=peeling_id)
    if peeling is None or not _may_see(me, peeling.owner_id):
        raise NotFound("peeling", peeling_id)
    return peeling


async def list_peelings(
    reader: ReadPool, me: Principal, pager: Pager, q: str | None, order: Order
) -> Page[PeelingPublic]:
    peelings = _listed(me.is_admin, q is not None)
    owner = {} if me.is_admin else {"owner_id": me.id}
    pattern = {} if q is None else {"pattern": like(q)}
    return await pager.fetch(reader, PeelingPublic, peelings, order, **owner, **pattern)


async def create_peeling(
    session: WriteSession, me: Principal, data: PeelingCreate
) -> PeelingPublic:
    peeling = Peeling(**data.model_dump(), owner_id=me.id)
    session.add(peeling)
    await session.flush()
    return PeelingPublic.model_validate(peeling)


async def update_peeling(
    session: WriteSession, me: Principal, peeling_id: int, data: PeelingUpdate
) -> PeelingPublic:
    peeling = await _find(session, me, peeling_id)
    peeling.sqlmodel_update(data.model_dump(exclude_unset=True))
    await session.flush()
    return PeelingPublic.model_validate(peeling)


async def delete_peeling(session: WriteSession, me: Principal, peeling_id: int) -> None:
    await session.delete(await _find(session, me, peeling_id))
    await session.flush()


async def _find(session: WriteSession, me: Principal, peeling_id: int) -> Peeling:
    peeling = await session.get(Peeling, peeling_id)
    if peeling is None or not _may_see(me, peeling.owner_id):
        raise NotFound("peeling", peeling_id)
    return peeling


def _may_see(me: Principal, owner_id: int) -> bool:
    return me.is_admin or me.id == owner_id
