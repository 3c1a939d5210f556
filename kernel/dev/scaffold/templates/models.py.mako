from datetime import date, datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from kernel import Amount, Day, Document, Input, Line, Public, RowId, Table, Text, Timestamp, Whole


class ${row}Base(SQLModel):
% for field in fields:
    ${field.declared}
% endfor


class ${row}(${row}Base, Table, table=True):
    __tablename__ = "${name}"
% if is_owned:
    __table_args__ = (Index(None, "owner_id", "id"),)

    owner_id: int = Field(foreign_key="users.id", sa_type=BigInteger)
% endif


class ${row}Create(${row}Base, Input):
    pass


class ${row}Update(Input):
% for field in fields:
    ${field.changed}
% endfor


class ${row}Public(Public):
% for field in fields:
    ${field.shown}
% endfor
% if is_owned:
    owner_id: int
% endif
