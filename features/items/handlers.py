from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam
from sqlmodel import col, select

from features.items.models import Item, ItemCreate, ItemFilter, ItemPublic, ItemUpdate
from kernel import NotFound, Page, Pager, Principal, ReadPool, WriteSession, like

BY_ID = select(Item).where(Item.id == bindparam("id"))


@cache
def _listed(everybodys: bool, searched: bool) -> Select[*tuple[Any, ...]]:
    items = select(Item)
    if not everybodys:
        items = items.where(Item.owner_id == bindparam("owner_id"))
    return items.where(col(Item.title).ilike(bindparam("pattern"))) if searched else items


async def get_item(reader: ReadPool, me: Principal, item_id: int) -> ItemPublic:
    item = await reader.first(ItemPublic, BY_ID, id=item_id)
    if item is None or not _may_see(me, item.owner_id):
        raise NotFound("item", item_id)
    return item


async def list_items(
    reader: ReadPool, me: Principal, pager: Pager, filters: ItemFilter
) -> Page[ItemPublic]:
    items = filters.apply(_listed(me.is_admin, filters.q is not None))
    owner = {} if me.is_admin else {"owner_id": me.id}
    pattern = {} if filters.q is None else {"pattern": like(filters.q)}
    values = {**owner, **pattern, **filters.values()}
    return await pager.fetch(reader, ItemPublic, items, filters.order, **values)


async def create_item(session: WriteSession, me: Principal, data: ItemCreate) -> ItemPublic:
    return await session.insert(Item, ItemPublic, **data.model_dump(), owner_id=me.id)


async def update_item(
    session: WriteSession, me: Principal, item_id: int, data: ItemUpdate
) -> ItemPublic:
    item = await _find(session, me, item_id)
    item.sqlmodel_update(data.model_dump(exclude_unset=True))
    await session.flush()
    return ItemPublic.model_validate(item)


async def delete_item(session: WriteSession, me: Principal, item_id: int) -> None:
    await session.delete(await _find(session, me, item_id))
    await session.flush()


async def _find(session: WriteSession, me: Principal, item_id: int) -> Item:
    item = await session.get(Item, item_id)
    if item is None or not _may_see(me, item.owner_id):
        raise NotFound("item", item_id)
    return item


def _may_see(me: Principal, owner_id: int) -> bool:
    return me.is_admin or me.id == owner_id
