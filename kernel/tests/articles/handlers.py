import re
from secrets import token_hex

import httpx
from sqlalchemy import bindparam
from sqlmodel import col, select

from kernel import (
    Conflict,
    Forbidden,
    NotFound,
    Page,
    Pager,
    Principal,
    ReadPool,
    Rows,
    WriteSession,
)

from .models import (
    Language,
    PeeledArticle,
    PeeledArticleAnswer,
    PeeledArticleFields,
    PeeledArticlePublic,
    PeeledArticleTag,
    PeeledCountry,
    PeeledCountryCreate,
    PeeledCountryFields,
    PeeledCountryPublic,
    PeeledPreviewCreate,
    PeeledPreviewPublic,
    PeeledSection,
    PeeledSectionCreate,
    PeeledSectionPublic,
    PeeledTag,
    PeeledTagCreate,
    PeeledTagPublic,
    PeeledTranslationPublic,
    State,
)

TRANSLATOR = "https://translator.example/v1/translate"
BY_SLUG = select(PeeledArticle).where(PeeledArticle.slug == bindparam("slug"))
COUNTRY = select(PeeledCountry).where(PeeledCountry.id == bindparam("id"))
MINE = select(PeeledArticle).where(PeeledArticle.owner_id == bindparam("owner_id"))
TAGS = select(PeeledTag)


async def create_peeled_article(
    session: WriteSession, me: Principal, data: PeeledArticleFields
) -> PeeledArticleAnswer:
    words = re.sub(r"[^a-z0-9]+", "-", data.title.lower())
    article = PeeledArticle(slug=f"{words}-{token_hex(6)}", title=data.title, owner_id=me.id)
    article.summary = data.seo.summary if data.seo else None
    session.add(article)
    await session.flush()
    return _answer(article)


async def list_peeled_articles(
    reader: ReadPool, me: Principal, pager: Pager
) -> Page[PeeledArticlePublic]:
    return await pager.fetch(reader, PeeledArticlePublic, MINE, "-id", owner_id=me.id)


async def get_peeled_article(
    reader: ReadPool, me: Principal | None, slug: str
) -> PeeledArticleAnswer:
    article = await reader.first(PeeledArticlePublic, BY_SLUG, slug=slug)
    if article is None or (article.state == "draft" and (me is None or me.id != article.owner_id)):
        raise NotFound("article", slug)
    return PeeledArticleAnswer(article=article)


async def update_peeled_article(
    session: WriteSession, me: Principal, slug: str, data: PeeledArticleFields
) -> PeeledArticleAnswer:
    article = await _own(session, me, slug)
    article.title = data.title
    await session.flush()
    return _answer(article)


async def delete_peeled_article(session: WriteSession, me: Principal, slug: str) -> None:
    await session.delete(await _own(session, me, slug))
    await session.flush()


async def change_state(
    session: WriteSession, me: Principal, slug: str, before: State, after: State
) -> PeeledArticleAnswer:
    article = await _own(session, me, slug)
    if article.state != before:
        raise Conflict(f"the article is no {before}")
    article.state = after
    await session.flush()
    return _answer(article)


async def tag_peeled_article(
    session: WriteSession, me: Principal, slug: str, peeled_tag_id: int
) -> None:
    article = await _own(session, me, slug)
    if await session.get(PeeledTag, peeled_tag_id) is None:
        raise NotFound("tag", peeled_tag_id)
    if await session.get(PeeledArticleTag, (article.id, peeled_tag_id)) is None:
        session.add(PeeledArticleTag(peeled_article_id=article.id, peeled_tag_id=peeled_tag_id))
    await session.flush()


async def untag_peeled_article(
    session: WriteSession, me: Principal, slug: str, peeled_tag_id: int
) -> None:
    article = await _own(session, me, slug)
    link = await session.get(PeeledArticleTag, (article.id, peeled_tag_id))
    if link is None:
        raise NotFound("tag", peeled_tag_id)
    await session.delete(link)
    await session.flush()


async def add_peeled_sections(
    session: WriteSession, me: Principal, slug: str, data: list[PeeledSectionCreate]
) -> list[PeeledSectionPublic]:
    article = await _own(session, me, slug)
    sections = [PeeledSection(**each.model_dump(), peeled_article_id=article.id) for each in data]
    session.add_all(sections)
    await session.flush()
    return [PeeledSectionPublic.model_validate(each) for each in sections]


async def set_peeled_cover(
    session: WriteSession, me: Principal, slug: str, size: int
) -> PeeledArticleAnswer:
    article = await _own(session, me, slug)
    article.cover_bytes = size
    await session.flush()
    return _answer(article)


def preview(data: PeeledPreviewCreate) -> PeeledPreviewPublic:
    return PeeledPreviewPublic(words=len(data.text.split()))


async def translate(
    session: WriteSession, http: httpx.AsyncClient, me: Principal, slug: str, language: Language
) -> PeeledTranslationPublic:
    article = await _own(session, me, slug)
    answer = await http.post(TRANSLATOR, json={"text": article.title, "to": language})
    return PeeledTranslationPublic(
        language=language, title=answer.raise_for_status().json()["text"]
    )


async def create_peeled_tag(session: WriteSession, data: PeeledTagCreate) -> PeeledTagPublic:
    tag = PeeledTag(name=data.name)
    session.add(tag)
    await session.flush()
    return PeeledTagPublic.model_validate(tag)


async def list_peeled_tags(reader: ReadPool, pager: Pager) -> Page[PeeledTagPublic]:
    return await pager.fetch(reader, PeeledTagPublic, TAGS, "name")


async def create_peeled_country(
    session: WriteSession, data: PeeledCountryCreate
) -> PeeledCountryPublic:
    return await session.insert(PeeledCountry, PeeledCountryPublic, **data.model_dump())


async def get_peeled_country(rows: Rows, code: str) -> PeeledCountryPublic:
    country = await rows.first(PeeledCountryPublic, COUNTRY, id=code)
    if country is None:
        raise NotFound("country", code)
    return country


async def rename_peeled_country(
    session: WriteSession, code: str, data: PeeledCountryFields
) -> PeeledCountryPublic:
    country = await session.get(PeeledCountry, code)
    if country is None:
        raise NotFound("country", code)
    country.name = data.name
    await session.flush()
    return PeeledCountryPublic.model_validate(country)


async def delete_peeled_country(session: WriteSession, code: str) -> None:
    country = await session.get(PeeledCountry, code)
    if country is None:
        raise NotFound("country", code)
    await session.delete(country)
    await session.flush()


async def _own(session: WriteSession, me: Principal, slug: str) -> PeeledArticle:
    found = await session.exec(select(PeeledArticle).where(col(PeeledArticle.slug) == slug))
    article = found.first()
    if article is None:
        raise NotFound("article", slug)
    if not me.is_admin and me.id != article.owner_id:
        raise Forbidden("only for the article's author")
    return article


def _answer(article: PeeledArticle) -> PeeledArticleAnswer:
    return PeeledArticleAnswer(article=PeeledArticlePublic.model_validate(article))
