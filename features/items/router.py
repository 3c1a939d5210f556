from typing import Annotated

from fastapi import Query

from features.items import handlers
from features.items.models import ItemCreate, ItemFilter, ItemPublic, ItemUpdate
from kernel import CurrentUser, Id, Page, Paging, Reader, Router, Session

router = Router(prefix="/items", tags=["items"])


@router.post("", status_code=201)
async def create_item(data: ItemCreate, me: CurrentUser, session: Session) -> ItemPublic:
    return await handlers.create_item(session, me, data)


@router.get("")
async def list_items(
    me: CurrentUser, reader: Reader, paging: Paging, filters: Annotated[ItemFilter, Query()]
) -> Page[ItemPublic]:
    return await handlers.list_items(reader, me, paging, filters)


@router.get("/{item_id}")
async def get_item(item_id: Id, me: CurrentUser, reader: Reader) -> ItemPublic:
    return await handlers.get_item(reader, me, item_id)


@router.patch("/{item_id}")
async def update_item(
    item_id: Id, data: ItemUpdate, me: CurrentUser, session: Session
) -> ItemPublic:
    return await handlers.update_item(session, me, item_id, data)


@router.delete("/{item_id}", status_code=204)
async def delete_item(item_id: Id, me: CurrentUser, session: Session) -> None:
    await handlers.delete_item(session, me, item_id)
