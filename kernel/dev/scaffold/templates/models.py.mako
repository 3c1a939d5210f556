from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import StrictInt
from sqlalchemy import BigInteger, Index, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from kernel import (
    Amount,
    Day,
    Document,
    Email,
    Filter,
    Input,
    Line,
    Public,
    RowId,
    Table,
    Text,
    Timestamp,
    Whole,
    one_of,
)

<%
    parts = ['Index(None, "owner_id", "id")'] if is_owned else []
    parts += [f'one_of("{field.name}", {field.kind.annotation})' for field in fields if field.kind.words]
    parts += [f'Index(None, "{field.name}", "id")' for field in fields if field.is_indexed]
%>\
% for field in fields:
% if field.kind.words:
${field.kind.annotation} = Literal[${", ".join(f'"{word}"' for word in field.kind.words)}]
% endif
% endfor


class ${row}Base(SQLModel):
% for field in fields:
    ${field.declared}
% endfor


class ${row}(${row}Base, Table, table=True):
    __tablename__ = "${name}"
% if parts:
    __table_args__ = (${", ".join(parts)},)
% endif
% if is_owned:

    owner_id: int = Field(foreign_key="users.id", sa_type=BigInteger)
% endif


class ${row}Create(${row}Base, Input):
    pass


class ${row}Update(Input):
% for field in fields:
    ${field.changed}
% endfor


% if filters or is_owned:
class ${row}Filter(Filter):
% for query, field in filters:
    ${field.filters[query]}
% endfor
% if is_owned:
    owner_id: RowId | None = None
% endif


% endif
class ${row}Public(Public):
% for field in fields:
    ${field.shown}
% endfor
% if is_owned:
    owner_id: int
% endif
