from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Header, Query, UploadFile
from fastapi.responses import StreamingResponse

from kernel import (
    Admin,
    CurrentUser,
    Http,
    Id,
    Key,
    Page,
    Paging,
    Reader,
    Router,
    Session,
    Viewer,
    error_response,
)

from . import handlers
from .models import (
    Language,
    PeeledArticleAnswer,
    PeeledArticleBody,
    PeeledArticlePublic,
    PeeledCountryCreate,
    PeeledCountryFields,
    PeeledCountryPublic,
    PeeledPreviewCreate,
    PeeledPreviewPublic,
    PeeledSectionCreate,
    PeeledSectionPublic,
    PeeledTagCreate,
    PeeledTagPublic,
    PeeledTranslationPublic,
)

router = Router(tags=["peeled_articles"])
OTHERS = {403: error_response(403)}
TEXT: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.post("/peeled_articles", status_code=201)
async def create_peeled_article(
    data: PeeledArticleBody, me: CurrentUser, session: Session
) -> PeeledArticleAnswer:
    return await handlers.create_peeled_article(session, me, data.article)


@router.get("/peeled_articles")
async def list_peeled_articles(
    me: CurrentUser, reader: Reader, paging: Paging
) -> Page[PeeledArticlePublic]:
    return await handlers.list_peeled_articles(reader, me, paging)


@router.post("/peeled_articles/preview")
async def preview_peeled_article(data: PeeledPreviewCreate, _: CurrentUser) -> PeeledPreviewPublic:
    return handlers.preview(data)


@router.get("/peeled_articles/{peeled_slug}")
async def get_peeled_article(peeled_slug: Key, me: Viewer, reader: Reader) -> PeeledArticleAnswer:
    return await handlers.get_peeled_article(reader, me, peeled_slug)


@router.put("/peeled_articles/{peeled_slug}", responses=OTHERS)
async def update_peeled_article(
    peeled_slug: Key, data: PeeledArticleBody, me: CurrentUser, session: Session
) -> PeeledArticleAnswer:
    return await handlers.update_peeled_article(session, me, peeled_slug, data.article)


@router.delete("/peeled_articles/{peeled_slug}", status_code=204, responses=OTHERS)
async def delete_peeled_article(peeled_slug: Key, me: CurrentUser, session: Session) -> None:
    await handlers.delete_peeled_article(session, me, peeled_slug)


@router.post("/peeled_articles/{peeled_slug}/publication", responses=OTHERS)
async def publish_peeled_article(
    peeled_slug: Key, me: CurrentUser, session: Session
) -> PeeledArticleAnswer:
    return await handlers.change_state(session, me, peeled_slug, "draft", "published")


@router.delete("/peeled_articles/{peeled_slug}/publication", responses=OTHERS)
async def withdraw_peeled_article(
    peeled_slug: Key, me: CurrentUser, session: Session
) -> PeeledArticleAnswer:
    return await handlers.change_state(session, me, peeled_slug, "published", "draft")


@router.put(
    "/peeled_articles/{peeled_slug}/peeled_tags/{peeled_tag_id}", status_code=204, responses=OTHERS
)
async def tag_peeled_article(
    peeled_slug: Key, peeled_tag_id: Id, me: CurrentUser, session: Session
) -> None:
    await handlers.tag_peeled_article(session, me, peeled_slug, peeled_tag_id)


@router.delete(
    "/peeled_articles/{peeled_slug}/peeled_tags/{peeled_tag_id}", status_code=204, responses=OTHERS
)
async def untag_peeled_article(
    peeled_slug: Key, peeled_tag_id: Id, me: CurrentUser, session: Session
) -> None:
    await handlers.untag_peeled_article(session, me, peeled_slug, peeled_tag_id)


@router.post("/peeled_articles/{peeled_slug}/peeled_sections", status_code=201, responses=OTHERS)
async def add_peeled_sections(
    peeled_slug: Key, data: list[PeeledSectionCreate], me: CurrentUser, session: Session
) -> list[PeeledSectionPublic]:
    return await handlers.add_peeled_sections(session, me, peeled_slug, data)


@router.post("/peeled_articles/{peeled_slug}/cover", status_code=201, responses=OTHERS)
async def set_peeled_cover(
    peeled_slug: Key,
    file: UploadFile,
    x_alt_text: Annotated[str, Header(max_length=100)],
    me: CurrentUser,
    session: Session,
) -> PeeledArticleAnswer:
    return await handlers.set_peeled_cover(session, me, peeled_slug, file.size or len(x_alt_text))


@router.post("/peeled_articles/{peeled_slug}/translation", responses=OTHERS)
async def translate_peeled_article(
    peeled_slug: Key,
    language: Annotated[Language, Query()],
    me: CurrentUser,
    session: Session,
    http: Http,
) -> PeeledTranslationPublic:
    return await handlers.translate(session, http, me, peeled_slug, language)


@router.get("/peeled_articles/{peeled_slug}/text", response_class=StreamingResponse, responses=TEXT)
async def stream_peeled_article(
    peeled_slug: Key, me: CurrentUser, reader: Reader
) -> StreamingResponse:
    found = await handlers.get_peeled_article(reader, me, peeled_slug)

    async def lines() -> AsyncIterator[str]:
        yield found.article.title

    return StreamingResponse(lines(), media_type="text/plain")


@router.post("/peeled_tags", status_code=201)
async def create_peeled_tag(data: PeeledTagCreate, _: Admin, session: Session) -> PeeledTagPublic:
    return await handlers.create_peeled_tag(session, data)


@router.get("/peeled_tags")
async def list_peeled_tags(_: CurrentUser, reader: Reader, paging: Paging) -> Page[PeeledTagPublic]:
    return await handlers.list_peeled_tags(reader, paging)


@router.post("/peeled_countries", status_code=201)
async def create_peeled_country(
    data: PeeledCountryCreate, _: Admin, session: Session
) -> PeeledCountryPublic:
    return await handlers.create_peeled_country(session, data)


@router.get("/peeled_countries/{peeled_code}")
async def get_peeled_country(
    peeled_code: Key, _: CurrentUser, reader: Reader
) -> PeeledCountryPublic:
    return await handlers.get_peeled_country(reader, peeled_code)


@router.patch("/peeled_countries/{peeled_code}")
async def rename_peeled_country(
    peeled_code: Key, data: PeeledCountryFields, _: Admin, session: Session
) -> PeeledCountryPublic:
    return await handlers.rename_peeled_country(session, peeled_code, data)


@router.delete("/peeled_countries/{peeled_code}", status_code=204)
async def delete_peeled_country(peeled_code: Key, _: Admin, session: Session) -> None:
    await handlers.delete_peeled_country(session, peeled_code)
