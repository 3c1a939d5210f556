"""What a foreign team may well design: slugs, envelopes, links, lists, states."""

from typing import Literal

from pydantic import field_validator
from sqlalchemy import BigInteger, CheckConstraint, Index, String
from sqlmodel import Field, SQLModel

from kernel.data.models import Input, Line, Public, Table, Text

Language = Literal["de", "fr"]
State = Literal["draft", "published"]


class PeeledArticle(Table, table=True):
    __tablename__ = "peeled_articles"
    __table_args__ = (
        CheckConstraint("state IN ('draft', 'published')", name="state"),
        Index(None, "owner_id", "id"),
    )

    slug: str = Field(max_length=120, unique=True)
    title: str = Field(max_length=100)
    summary: str | None = Field(default=None, max_length=200)
    state: State = Field(default="draft", sa_type=String(20))
    cover_bytes: int | None = None
    owner_id: int = Field(foreign_key="users.id", sa_type=BigInteger)


class PeeledSection(Table, table=True):
    __tablename__ = "peeled_sections"

    heading: str = Field(max_length=100)
    text: str | None = Field(default=None, max_length=2000)
    peeled_article_id: int = Field(
        foreign_key="peeled_articles.id", ondelete="CASCADE", sa_type=BigInteger, index=True
    )


class PeeledTag(Table, table=True):
    __tablename__ = "peeled_tags"

    name: str = Field(max_length=50, unique=True)


class PeeledCountry(Table, table=True):
    """A table whose key is text."""

    __tablename__ = "peeled_countries"

    id: str = Field(primary_key=True, max_length=20)  # type: ignore[assignment]  # not a number
    name: str = Field(max_length=100)


class PeeledArticleTag(SQLModel, table=True):
    __tablename__ = "peeled_article_tags"

    peeled_article_id: int = Field(
        foreign_key="peeled_articles.id", ondelete="CASCADE", sa_type=BigInteger, primary_key=True
    )
    peeled_tag_id: int = Field(
        foreign_key="peeled_tags.id", sa_type=BigInteger, primary_key=True, index=True
    )


class PeeledSeo(Input):
    summary: Line | None = Field(default=None, max_length=200)


class PeeledArticleFields(Input):
    title: Line = Field(max_length=100)
    seo: PeeledSeo | None = None


class PeeledArticleBody(Input):
    article: PeeledArticleFields


class PeeledArticlePublic(Public):
    slug: str
    title: str
    summary: str | None
    state: State
    owner_id: int


class PeeledArticleAnswer(SQLModel):
    article: PeeledArticlePublic


class PeeledSectionCreate(Input):
    heading: Line = Field(max_length=100)
    text: Text | None = Field(default=None, max_length=2000)


class PeeledSectionPublic(Public):
    heading: str
    text: str | None


class PeeledTagCreate(Input):
    name: Line = Field(max_length=50)

    @field_validator("name")
    @classmethod
    def _is_one_word(cls, name: str) -> str:
        if " " in name.strip():
            raise ValueError("should be one word")
        return name


class PeeledTagPublic(Public):
    name: str


class PeeledCountryFields(Input):
    name: Line = Field(max_length=100)


class PeeledCountryCreate(PeeledCountryFields):
    id: Line = Field(max_length=20)


class PeeledCountryPublic(Public):
    id: str  # type: ignore[assignment]  # not a number
    name: str


class PeeledPreviewCreate(Input):
    text: Text = Field(max_length=2000)


class PeeledPreviewPublic(SQLModel):
    words: int


class PeeledTranslationPublic(SQLModel):
    language: Language
    title: str
