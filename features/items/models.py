from typing import Literal

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from kernel import Filter, Input, Line, Public, RowId, Table, Text, search_index


class ItemBase(SQLModel):
    title: Line = Field(max_length=200)
    description: Text | None = Field(default=None, max_length=2000)


class Item(ItemBase, Table, table=True):
    __tablename__ = "items"
    # One index for each order that a list offers: an owner's, and the admin's over all.
    __table_args__ = (
        Index(None, "owner_id", "id"),
        Index(None, "owner_id", "title", "id"),
        Index(None, "title", "id"),
        search_index("items", "title"),
    )

    owner_id: int = Field(foreign_key="users.id", sa_type=BigInteger)


class ItemCreate(ItemBase, Input):
    pass


class ItemUpdate(Input):
    title: Line = Field(default=None, max_length=200)
    description: Text | None = Field(default=None, max_length=2000)


class ItemFilter(Filter):
    owner_id: RowId | None = None
    q: Text | None = Field(default=None, max_length=100, description="What titles contain.")
    order: Literal["id", "-id", "title", "-title"] = "-id"


class ItemPublic(Public):
    title: str
    description: str | None
    owner_id: int
