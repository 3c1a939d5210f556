from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from kernel import Input, Line, Public, Table, Text, search_index


class PeelingBase(SQLModel):
    title: Line = Field(max_length=200)
    description: Text | None = Field(default=None, max_length=2000)


class Peeling(PeelingBase, Table, table=True):
    __tablename__ = "peelings"
    # One index for each order that a list offers: an owner's, and the admin's over all.
    __table_args__ = (
        Index(None, "owner_id", "id"),
        Index(None, "owner_id", "title", "id"),
        Index(None, "title", "id"),
        search_index("peelings", "title"),
    )

    owner_id: int = Field(foreign_key="users.id", sa_type=BigInteger)


class PeelingCreate(PeelingBase, Input):
    pass


class PeelingUpdate(Input):
    title: Line = Field(default=None, max_length=200)
    description: Text | None = Field(default=None, max_length=2000)


class PeelingPublic(Public):
    title: str
    description: str | None
    owner_id: int
