"""Things with a title, each its owner's alone; admins see all."""

from typing import Annotated

from fastapi import Query

from features.items import handlers
from features.items.models import ItemCreate, ItemFilter, ItemPublic, ItemUpdate
from kernel import CurrentUser, Id, Page, Paging, Reader, Router, Session

router = Router(prefix="/items", tags=["items"])


@router.post("", status_code=201)
async def create_item(data: ItemCreate, me: CurrentUser, session: Session) -> ItemPublic:
    """Make an item, which is the caller's own."""
    return await handlers.create_item(session, me, data)


@router.get("")
async def list_items(
    me: CurrentUser, reader: Reader, paging: Paging, filters: Annotated[ItemFilter, Query()]
) -> Page[ItemPublic]:
    """The caller's own items, or an admin's view of all, page by page."""
    return await handlers.list_items(reader, me, paging, filters)


@router.get("/{item_id}")
async def get_item(item_id: Id, me: CurrentUser, reader: Reader) -> ItemPublic:
    """One item. Somebody else's is a 404."""
    return await handlers.get_item(reader, me, item_id)


@router.patch("/{item_id}")
async def update_item(
    item_id: Id, data: ItemUpdate, me: CurrentUser, session: Session
) -> ItemPublic:
    """Change the fields that are sent. With `If-Match`, only the version that was read."""
    return await handlers.update_item(session, me, item_id, data)


@router.delete("/{item_id}", status_code=204)
async def delete_item(item_id: Id, me: CurrentUser, session: Session) -> None:
    """Delete an item."""
    await handlers.delete_item(session, me, item_id)
