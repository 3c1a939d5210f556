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
    Article,
    ArticleAnswer,
    ArticleFields,
    ArticlePublic,
    ArticleTag,
    Country,
    CountryCreate,
    CountryFields,
    CountryPublic,
    Language,
    PreviewCreate,
    PreviewPublic,
    Section,
    SectionCreate,
    SectionPublic,
    State,
    Tag,
    TagCreate,
    TagPublic,
    TranslationPublic,
)

TRANSLATOR = "https://translator.example/v1/translate"
BY_SLUG = select(Article).where(Article.slug == bindparam("slug"))
COUNTRY = select(Country).where(Country.id == bindparam("id"))
MINE = select(Article).where(Article.owner_id == bindparam("owner_id"))
TAGS = select(Tag)


async def create_article(
    session: WriteSession, me: Principal, data: ArticleFields
) -> ArticleAnswer:
    words = re.sub(r"[^a-z0-9]+", "-", data.title.lower())
    article = Article(slug=f"{words}-{token_hex(6)}", title=data.title, owner_id=me.id)
    article.summary = data.seo.summary if data.seo else None
    session.add(article)
    await session.flush()
    return _answer(article)


async def list_articles(reader: ReadPool, me: Principal, pager: Pager) -> Page[ArticlePublic]:
    return await pager.fetch(reader, ArticlePublic, MINE, "-id", owner_id=me.id)


async def get_article(reader: ReadPool, me: Principal | None, slug: str) -> ArticleAnswer:
    article = await reader.first(ArticlePublic, BY_SLUG, slug=slug)
    if article is None or (article.state == "draft" and (me is None or me.id != article.owner_id)):
        raise NotFound("article", slug)
    return ArticleAnswer(article=article)


async def update_article(
    session: WriteSession, me: Principal, slug: str, data: ArticleFields
) -> ArticleAnswer:
    article = await _own(session, me, slug)
    article.title = data.title
    await session.flush()
    return _answer(article)


async def delete_article(session: WriteSession, me: Principal, slug: str) -> None:
    await session.delete(await _own(session, me, slug))
    await session.flush()


async def change_state(
    session: WriteSession, me: Principal, slug: str, before: State, after: State
) -> ArticleAnswer:
    article = await _own(session, me, slug)
    if article.state != before:
        raise Conflict(f"the article is no {before}")
    article.state = after
    await session.flush()
    return _answer(article)


async def tag_article(session: WriteSession, me: Principal, slug: str, tag_id: int) -> None:
    article = await _own(session, me, slug)
    if await session.get(Tag, tag_id) is None:
        raise NotFound("tag", tag_id)
    if await session.get(ArticleTag, (article.id, tag_id)) is None:
        session.add(ArticleTag(article_id=article.id, tag_id=tag_id))
    await session.flush()


async def untag_article(session: WriteSession, me: Principal, slug: str, tag_id: int) -> None:
    article = await _own(session, me, slug)
    link = await session.get(ArticleTag, (article.id, tag_id))
    if link is None:
        raise NotFound("tag", tag_id)
    await session.delete(link)
    await session.flush()


async def add_sections(
    session: WriteSession, me: Principal, slug: str, data: list[SectionCreate]
) -> list[SectionPublic]:
    article = await _own(session, me, slug)
    sections = [Section(**each.model_dump(), article_id=article.id) for each in data]
    session.add_all(sections)
    await session.flush()
    return [SectionPublic.model_validate(each) for each in sections]


async def set_cover(session: WriteSession, me: Principal, slug: str, size: int) -> ArticleAnswer:
    article = await _own(session, me, slug)
    article.cover_bytes = size
    await session.flush()
    return _answer(article)


def preview(data: PreviewCreate) -> PreviewPublic:
    return PreviewPublic(words=len(data.text.split()))


async def translate(
    session: WriteSession, http: httpx.AsyncClient, me: Principal, slug: str, language: Language
) -> TranslationPublic:
    article = await _own(session, me, slug)
    answer = await http.post(TRANSLATOR, json={"text": article.title, "to": language})
    return TranslationPublic(language=language, title=answer.raise_for_status().json()["text"])


async def create_tag(session: WriteSession, data: TagCreate) -> TagPublic:
    tag = Tag(name=data.name)
    session.add(tag)
    await session.flush()
    return TagPublic.model_validate(tag)


async def list_tags(reader: ReadPool, pager: Pager) -> Page[TagPublic]:
    return await pager.fetch(reader, TagPublic, TAGS, "name")


async def create_country(session: WriteSession, data: CountryCreate) -> CountryPublic:
    return await session.insert(Country, CountryPublic, **data.model_dump())


async def get_country(rows: Rows, code: str) -> CountryPublic:
    country = await rows.first(CountryPublic, COUNTRY, id=code)
    if country is None:
        raise NotFound("country", code)
    return country


async def rename_country(session: WriteSession, code: str, data: CountryFields) -> CountryPublic:
    country = await session.get(Country, code)
    if country is None:
        raise NotFound("country", code)
    country.name = data.name
    await session.flush()
    return CountryPublic.model_validate(country)


async def delete_country(session: WriteSession, code: str) -> None:
    country = await session.get(Country, code)
    if country is None:
        raise NotFound("country", code)
    await session.delete(country)
    await session.flush()


async def _own(session: WriteSession, me: Principal, slug: str) -> Article:
    found = await session.exec(select(Article).where(col(Article.slug) == slug))
    article = found.first()
    if article is None:
        raise NotFound("article", slug)
    if not me.is_admin and me.id != article.owner_id:
        raise Forbidden("only for the article's author")
    return article


def _answer(article: Article) -> ArticleAnswer:
    return ArticleAnswer(article=ArticlePublic.model_validate(article))
