"""FastAPI by hand: what a good FastAPI developer writes on asyncpg, without a template.

FastAPI as its manual has it: dependencies, pydantic models for bodies and answers, and the JSON
that pydantic makes of them. The same statements as ours, on one connection for each request. It
has declared errors, which the bound has not, and else leaves out what the bound leaves out: logs,
request ids, timings, retries, timeouts. What costs it more than the bound, besides FastAPI, is what
such code has: a token is verified each time, and asyncpg's pool resets what it gets back.
"""

import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import jwt
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, StringConstraints

from kernel.tests.bench.bound import INSERT, ITEM, NEXT, PAGE, USER

SECRET = os.environ.get("APP_JWT_SECRET", "")


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    description: Annotated[str, StringConstraints(max_length=2000)] | None = None


class Item(BaseModel):
    id: int
    created_at: datetime
    updated_at: datetime
    version: int
    title: str
    description: str | None
    owner_id: int


class ItemPage(BaseModel):
    items: list[Item]
    next_cursor: str | None


class User(BaseModel):
    id: int
    role: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # As many connections as the service writes with.
    async with asyncpg.create_pool(os.environ["APP_DATABASE_URL"], min_size=0, max_size=20) as pool:
        app.state.pool = pool
        yield


async def get_connection(request: Request) -> AsyncIterator[Any]:
    async with request.app.state.pool.acquire() as connection:
        yield connection


Connection = Annotated["asyncpg.Connection[asyncpg.Record]", Depends(get_connection)]
Bearer = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


async def get_current_user(connection: Connection, credentials: Bearer) -> User:
    try:
        claims = jwt.decode(
            credentials.credentials,
            SECRET,
            algorithms=["HS256"],
            issuer="julienne",
            audience="julienne",
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401, "invalid token") from None
    user = await connection.fetchrow(USER, UUID(claims["sid"]), int(claims["sub"]))
    if user is None:
        raise HTTPException(401, "unknown user")
    return User(**user)


CurrentUser = Annotated[User, Depends(get_current_user)]
app = FastAPI(lifespan=lifespan)


@app.get("/items/{item_id}")
async def get_item(item_id: int, connection: Connection, user: CurrentUser) -> Item:
    item = await connection.fetchrow(ITEM, item_id)
    if item is None or (item["owner_id"] != user.id and user.role != "admin"):
        raise HTTPException(404, "item not found")
    return Item(**item)


@app.get("/items")
async def list_items(
    connection: Connection,
    user: CurrentUser,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: str | None = None,
) -> ItemPage:
    place = () if cursor is None else (decode_cursor(cursor),)
    found = await connection.fetch(NEXT if place else PAGE, user.id, limit + 1, *place)
    items = [Item(**item) for item in found[:limit]]
    next_cursor = encode_cursor(items[-1].id) if len(found) > limit else None
    return ItemPage(items=items, next_cursor=next_cursor)


@app.post("/items", status_code=201)
async def create_item(data: ItemCreate, connection: Connection, user: CurrentUser) -> Item:
    async with connection.transaction():
        item = await connection.fetchrow(INSERT, data.title, data.description, user.id)
    return Item(**dict(item or ()))


def encode_cursor(item_id: int) -> str:
    return base64.urlsafe_b64encode(str(item_id).encode()).decode()


def decode_cursor(cursor: str) -> int:
    try:
        return int(base64.urlsafe_b64decode(cursor))
    except ValueError:
        raise HTTPException(422, "invalid cursor") from None
