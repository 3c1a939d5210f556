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
    ArticleAnswer,
    ArticleBody,
    ArticlePublic,
    CountryCreate,
    CountryFields,
    CountryPublic,
    Language,
    PreviewCreate,
    PreviewPublic,
    SectionCreate,
    SectionPublic,
    TagCreate,
    TagPublic,
    TranslationPublic,
)

router = Router(tags=["articles"])
OTHERS = {403: error_response(403)}
TEXT: dict[int | str, dict[str, object]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.post("/articles", status_code=201)
async def create_article(data: ArticleBody, me: CurrentUser, session: Session) -> ArticleAnswer:
    return await handlers.create_article(session, me, data.article)


@router.get("/articles")
async def list_articles(me: CurrentUser, reader: Reader, paging: Paging) -> Page[ArticlePublic]:
    return await handlers.list_articles(reader, me, paging)


@router.post("/articles/preview")
async def preview_article(data: PreviewCreate, _: CurrentUser) -> PreviewPublic:
    return handlers.preview(data)


@router.get("/articles/{slug}")
async def get_article(slug: Key, me: Viewer, reader: Reader) -> ArticleAnswer:
    return await handlers.get_article(reader, me, slug)


@router.put("/articles/{slug}", responses=OTHERS)
async def update_article(
    slug: Key, data: ArticleBody, me: CurrentUser, session: Session
) -> ArticleAnswer:
    return await handlers.update_article(session, me, slug, data.article)


@router.delete("/articles/{slug}", status_code=204, responses=OTHERS)
async def delete_article(slug: Key, me: CurrentUser, session: Session) -> None:
    await handlers.delete_article(session, me, slug)


@router.post("/articles/{slug}/publication", responses=OTHERS)
async def publish_article(slug: Key, me: CurrentUser, session: Session) -> ArticleAnswer:
    return await handlers.change_state(session, me, slug, "draft", "published")


@router.delete("/articles/{slug}/publication", responses=OTHERS)
async def withdraw_article(slug: Key, me: CurrentUser, session: Session) -> ArticleAnswer:
    return await handlers.change_state(session, me, slug, "published", "draft")


@router.put("/articles/{slug}/tags/{tag_id}", status_code=204, responses=OTHERS)
async def tag_article(slug: Key, tag_id: Id, me: CurrentUser, session: Session) -> None:
    await handlers.tag_article(session, me, slug, tag_id)


@router.delete("/articles/{slug}/tags/{tag_id}", status_code=204, responses=OTHERS)
async def untag_article(slug: Key, tag_id: Id, me: CurrentUser, session: Session) -> None:
    await handlers.untag_article(session, me, slug, tag_id)


@router.post("/articles/{slug}/sections", status_code=201, responses=OTHERS)
async def add_sections(
    slug: Key, data: list[SectionCreate], me: CurrentUser, session: Session
) -> list[SectionPublic]:
    return await handlers.add_sections(session, me, slug, data)


@router.post("/articles/{slug}/cover", status_code=201, responses=OTHERS)
async def set_cover(
    slug: Key,
    file: UploadFile,
    x_alt_text: Annotated[str, Header(max_length=100)],
    me: CurrentUser,
    session: Session,
) -> ArticleAnswer:
    return await handlers.set_cover(session, me, slug, file.size or len(x_alt_text))


@router.post("/articles/{slug}/translation", responses=OTHERS)
async def translate_article(
    slug: Key,
    language: Annotated[Language, Query()],
    me: CurrentUser,
    session: Session,
    http: Http,
) -> TranslationPublic:
    return await handlers.translate(session, http, me, slug, language)


@router.get("/articles/{slug}/text", response_class=StreamingResponse, responses=TEXT)
async def stream_article(slug: Key, me: CurrentUser, reader: Reader) -> StreamingResponse:
    found = await handlers.get_article(reader, me, slug)

    async def lines() -> AsyncIterator[str]:
        yield found.article.title

    return StreamingResponse(lines(), media_type="text/plain")


@router.post("/tags", status_code=201)
async def create_tag(data: TagCreate, _: Admin, session: Session) -> TagPublic:
    return await handlers.create_tag(session, data)


@router.get("/tags")
async def list_tags(_: CurrentUser, reader: Reader, paging: Paging) -> Page[TagPublic]:
    return await handlers.list_tags(reader, paging)


@router.post("/countries", status_code=201)
async def create_country(data: CountryCreate, _: Admin, session: Session) -> CountryPublic:
    return await handlers.create_country(session, data)


@router.get("/countries/{code}")
async def get_country(code: Key, _: CurrentUser, reader: Reader) -> CountryPublic:
    return await handlers.get_country(reader, code)


@router.patch("/countries/{code}")
async def rename_country(
    code: Key, data: CountryFields, _: Admin, session: Session
) -> CountryPublic:
    return await handlers.rename_country(session, code, data)


@router.delete("/countries/{code}", status_code=204)
async def delete_country(code: Key, _: Admin, session: Session) -> None:
    await handlers.delete_country(session, code)
