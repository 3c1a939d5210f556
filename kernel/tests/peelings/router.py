from collections.abc import AsyncIterator

from fastapi import UploadFile
from fastapi.responses import StreamingResponse

from kernel import CurrentUser, Id, Page, Paging, Reader, Router, Search, Session

from . import handlers
from .handlers import Order
from .models import PeelingCreate, PeelingPublic, PeelingUpdate

router = Router(prefix="/peelings", tags=["peelings"])


@router.post("", status_code=201)
async def create_peeling(data: PeelingCreate, me: CurrentUser, session: Session) -> PeelingPublic:
    return await handlers.create_peeling(session, me, data)


@router.get("")
async def list_peelings(
    me: CurrentUser, reader: Reader, paging: Paging, q: Search = None, order: Order = "-id"
) -> Page[PeelingPublic]:
    return await handlers.list_peelings(reader, me, paging, q, order)


@router.get("/{peeling_id}")
async def get_peeling(peeling_id: Id, me: CurrentUser, reader: Reader) -> PeelingPublic:
    return await handlers.get_peeling(reader, me, peeling_id)


@router.patch("/{peeling_id}")
async def update_peeling(
    peeling_id: Id, data: PeelingUpdate, me: CurrentUser, session: Session
) -> PeelingPublic:
    return await handlers.update_peeling(session, me, peeling_id, data)


@router.delete("/{peeling_id}", status_code=204)
async def delete_peeling(peeling_id: Id, me: CurrentUser, session: Session) -> None:
    await handlers.delete_peeling(session, me, peeling_id)


# What a team writes besides.

TEXT: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/export", response_class=StreamingResponse, responses=TEXT)
async def export_peelings(_: CurrentUser) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        yield "peelings"

    return StreamingResponse(lines(), media_type="text/plain")


@router.post("/upload", status_code=201)
async def upload_peeling(file: UploadFile, me: CurrentUser, session: Session) -> PeelingPublic:
    return await handlers.create_peeling(session, me, PeelingCreate(title=f"{file.size} bytes"))


@router.put("/{peeling_id}")
async def replace_peeling(
    peeling_id: Id, data: PeelingCreate, me: CurrentUser, session: Session
) -> PeelingPublic:
    given = PeelingUpdate(title=data.title, description=data.description)
    return await handlers.update_peeling(session, me, peeling_id, given)


@router.post("/{peeling_id}/cook")
async def cook_peeling(peeling_id: Id, me: CurrentUser, session: Session) -> PeelingPublic:
    return await handlers.update_peeling(session, me, peeling_id, PeelingUpdate(title="Soup"))
