"""The bound: the same answers by hand, on Starlette and asyncpg, with nothing in between.

The same token, the same statements, the same JSON as the service's. What it leaves out is what a
framework is for: declared errors, logs, timings, retries, timeouts.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import jwt
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

USER = """
    SELECT users.id, users.role FROM refresh_tokens
    JOIN users ON refresh_tokens.user_id = users.id
    WHERE refresh_tokens.family = $1 AND users.id = $2 AND refresh_tokens.spent_at IS NULL
        AND refresh_tokens.expires_at > now() AND users.is_active
"""
COLUMNS = "id, created_at, updated_at, version, title, description, owner_id"
ITEM = f"SELECT {COLUMNS} FROM items WHERE id = $1"
PAGE = f"SELECT {COLUMNS} FROM items WHERE owner_id = $1 ORDER BY id DESC LIMIT $2"
NEXT = f"SELECT {COLUMNS} FROM items WHERE owner_id = $1 AND id < $3 ORDER BY id DESC LIMIT $2"
INSERT = f"INSERT INTO items (title, description, owner_id) VALUES ($1, $2, $3) RETURNING {COLUMNS}"
NOBODY = UUID(int=0), 0
REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,64}")

secret = os.environ.get("APP_JWT_SECRET", "")
mac_key = hashlib.sha256(b"mac" + secret.encode()).digest()
verified: dict[str, tuple[UUID, int, int]] = {}
pool: "asyncpg.Pool[asyncpg.Record]"


class ItemCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    description: Annotated[str, StringConstraints(max_length=2000)] | None = None


def caller(request: Request) -> tuple[UUID, int]:
    """The ids of sign-in and user, or NOBODY's."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    known = verified.get(token)
    if known is None:
        try:
            claims = jwt.decode(
                token, secret, algorithms=["HS256"], issuer="julienne", audience="julienne"
            )
        except jwt.InvalidTokenError:
            return NOBODY
        known = verified[token] = UUID(claims["sid"]), int(claims["sub"]), claims["exp"]
    return known[:2] if known[2] > time.time() else NOBODY


def answer(request: Request, status: int, content: object) -> Response:
    request_id = request.headers.get("x-request-id", "")
    if not REQUEST_ID.fullmatch(request_id):
        request_id = os.urandom(16).hex()
    headers = {"X-Request-ID": request_id}
    return Response(to_json(content), status, headers, "application/json")


async def get_item(request: Request) -> Response:
    async with pool.acquire() as connection:
        user = await connection.fetchrow(USER, *caller(request))
        if user is None:
            return answer(request, 401, {"error": "unauthorized"})
        item = await connection.fetchrow(ITEM, request.path_params["id"])
    if item is None or (item["owner_id"] != user["id"] and user["role"] != "admin"):
        return answer(request, 404, {"error": "not_found"})
    return answer(request, 200, dict(item))


async def list_items(request: Request) -> Response:
    query, path = request.query_params, request.scope["path"]
    limit = int(query.get("limit", "50"))
    after = unseal(mac_key, path, query["cursor"]) if "cursor" in query else None
    async with pool.acquire() as connection:
        user = await connection.fetchrow(USER, *caller(request))
        if user is None:
            return answer(request, 401, {"error": "unauthorized"})
        place = () if after is None else (after,)
        found = await connection.fetch(NEXT if place else PAGE, user["id"], limit + 1, *place)
    items = [dict(item) for item in found[:limit]]
    cursor = seal(mac_key, path, items[-1]["id"]) if len(found) > limit else None
    return answer(request, 200, {"items": items, "next_cursor": cursor})


async def create_item(request: Request) -> Response:
    try:
        data = ItemCreate.model_validate_json(await request.body())
    except ValidationError:
        return answer(request, 422, {"error": "unprocessable"})
    async with pool.acquire() as connection, connection.transaction():
        user = await connection.fetchrow(USER, *caller(request))
        if user is None:
            return answer(request, 401, {"error": "unauthorized"})
        item = await connection.fetchrow(INSERT, data.title, data.description, user["id"])
    return answer(request, 201, dict(item or ()))


def seal(key: bytes, path: str, row_id: int) -> str:
    """The cursor behind this row, newest first: the service's own, byte for byte."""
    text = to_json(["-id", None, [row_id]])
    return base64.urlsafe_b64encode(text + sign(key, path, text)).decode()


def unseal(key: bytes, path: str, cursor: str) -> int:
    sealed = base64.urlsafe_b64decode(cursor)
    text, signature = sealed[:-16], sealed[-16:]
    assert hmac.compare_digest(signature, sign(key, path, text))
    return int(json.loads(text)[2][0])


def sign(key: bytes, path: str, text: bytes) -> bytes:
    return hmac.digest(key, f"{path}\nBIGINT\n".encode() + text, hashlib.sha256)[:16]


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    global pool
    url = os.environ["APP_DATABASE_URL"]
    # As many connections as the service writes with: its pool's 10, and 10 more under load.
    async with asyncpg.create_pool(url, min_size=0, max_size=20, reset=keep_state) as pool:
        yield


async def keep_state(_: Any) -> None: ...


routes = [
    Route("/items", create_item, methods=["POST"]),
    Route("/items", list_items),
    Route("/items/{id:int}", get_item),
]
app = Starlette(routes=routes, lifespan=lifespan)
