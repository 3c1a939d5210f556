"""What a foreign team may well design: slugs, envelopes, links, lists, states."""

from typing import Literal

from pydantic import field_validator
from sqlalchemy import BigInteger, CheckConstraint, Index, String
from sqlmodel import Field, SQLModel

from kernel.data.models import Input, Line, Public, Table, Text

Language = Literal["de", "fr"]
State = Literal["draft", "published"]


class Article(Table, table=True):
    __tablename__ = "articles"
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


class Section(Table, table=True):
    __tablename__ = "sections"

    heading: str = Field(max_length=100)
    text: str | None = Field(default=None, max_length=2000)
    article_id: int = Field(
        foreign_key="articles.id", ondelete="CASCADE", sa_type=BigInteger, index=True
    )


class Tag(Table, table=True):
    __tablename__ = "tags"

    name: str = Field(max_length=50, unique=True)


class Country(Table, table=True):
    """A table whose key is text."""

    __tablename__ = "countries"

    id: str = Field(primary_key=True, max_length=20)  # type: ignore[assignment]  # not a number
    name: str = Field(max_length=100)


class ArticleTag(SQLModel, table=True):
    __tablename__ = "article_tags"

    article_id: int = Field(
        foreign_key="articles.id", ondelete="CASCADE", sa_type=BigInteger, primary_key=True
    )
    tag_id: int = Field(foreign_key="tags.id", sa_type=BigInteger, primary_key=True, index=True)


class Seo(Input):
    summary: Line | None = Field(default=None, max_length=200)


class ArticleFields(Input):
    title: Line = Field(max_length=100)
    seo: Seo | None = None


class ArticleBody(Input):
    article: ArticleFields


class ArticlePublic(Public):
    slug: str
    title: str
    summary: str | None
    state: State
    owner_id: int


class ArticleAnswer(SQLModel):
    article: ArticlePublic


class SectionCreate(Input):
    heading: Line = Field(max_length=100)
    text: Text | None = Field(default=None, max_length=2000)


class SectionPublic(Public):
    heading: str
    text: str | None


class TagCreate(Input):
    name: Line = Field(max_length=50)

    @field_validator("name")
    @classmethod
    def _is_one_word(cls, name: str) -> str:
        if " " in name.strip():
            raise ValueError("should be one word")
        return name


class TagPublic(Public):
    name: str


class CountryFields(Input):
    name: Line = Field(max_length=100)


class CountryCreate(CountryFields):
    id: Line = Field(max_length=20)


class CountryPublic(Public):
    id: str  # type: ignore[assignment]  # not a number
    name: str


class PreviewCreate(Input):
    text: Text = Field(max_length=2000)


class PreviewPublic(SQLModel):
    words: int


class TranslationPublic(SQLModel):
    language: Language
    title: str
