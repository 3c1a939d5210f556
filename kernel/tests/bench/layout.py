"""The published layout: FastAPI, Pydantic v2 and async SQLAlchemy, as articles and templates do it.

Retyped in its known shape and in one file, so that it can be compared with; nothing is made worse
than its authors make it.
"""

import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Annotated, Any

import jwt
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, MetaData, String, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.middleware.base import BaseHTTPMiddleware


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="APP_")

    database_url: str
    jwt_secret: str


settings = Settings()
engine = create_async_engine(
    settings.database_url.replace("postgresql:", "postgresql+asyncpg:").replace("sslmode", "ssl"),
    pool_size=10,
    max_overflow=10,
    pool_pre_ping=True,
)
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)
request_id_var: ContextVar[str] = ContextVar("request_id", default="-")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    full_name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(20), server_default="member")
    is_active: Mapped[bool] = mapped_column(server_default="true")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SignIn(Base):
    __tablename__ = "refresh_tokens"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    family: Mapped[uuid.UUID]
    expires_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    spent_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Item(Base):
    __tablename__ = "items"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str | None] = mapped_column(String(2000))
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    version: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), onupdate=func.now()
    )


class ItemCreate(BaseModel):
    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=2000)


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    description: str | None
    owner_id: int
    version: int
    created_at: datetime
    updated_at: datetime


class ItemPage(BaseModel):
    items: list[ItemRead]
    next_cursor: str | None


class AppError(Exception):
    status_code = 400
    code = "app_error"


class NotFoundError(AppError):
    status_code = 404
    code = "not_found"


class UnauthorizedError(AppError):
    status_code = 401
    code = "unauthorized"


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        payload = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id_var.get(),
        }
        if record.exc_info:
            payload["exception"] = self.formatException(record.exc_info)
        return json.dumps(payload)


class RequestIdMiddleware(BaseHTTPMiddleware):
    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        request_id = request.headers.get("X-Request-ID", str(uuid.uuid4()))
        token = request_id_var.set(request_id)
        try:
            response = await call_next(request)
        finally:
            request_id_var.reset(token)
        response.headers["X-Request-ID"] = request_id
        return response


async def get_session() -> AsyncIterator[AsyncSession]:
    async with SessionLocal() as session:
        try:
            yield session
        except Exception:
            await session.rollback()
            raise


SessionDep = Annotated[AsyncSession, Depends(get_session)]
Bearer = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


async def get_current_user(session: SessionDep, credentials: Bearer) -> User:
    try:
        payload = jwt.decode(
            credentials.credentials,
            settings.jwt_secret,
            algorithms=["HS256"],
            issuer="julienne",
            audience="julienne",
        )
    except jwt.InvalidTokenError as error:
        raise UnauthorizedError from error
    statement = (
        select(User)
        .join(SignIn, SignIn.user_id == User.id)
        .where(SignIn.family == uuid.UUID(payload["sid"]), User.id == int(payload["sub"]))
        .where(SignIn.spent_at.is_(None), SignIn.expires_at > func.now())
    )
    user = await session.scalar(statement)
    if user is None or not user.is_active:
        raise UnauthorizedError
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]


async def get_item(session: AsyncSession, user: User, item_id: int) -> Item:
    item = await session.get(Item, item_id)
    if item is None or (item.owner_id != user.id and user.role != "admin"):
        raise NotFoundError
    return item


async def list_items(session: AsyncSession, user: User, limit: int, offset: int) -> list[Item]:
    statement = select(Item).order_by(Item.id.desc()).limit(limit).offset(offset)
    if user.role != "admin":
        statement = statement.where(Item.owner_id == user.id)
    return list((await session.scalars(statement)).all())


async def create_item(session: AsyncSession, user: User, data: ItemCreate) -> Item:
    item = Item(**data.model_dump(), owner_id=user.id)
    session.add(item)
    await session.flush()
    return item


router = APIRouter(prefix="/items", tags=["items"])


@router.post("", response_model=ItemRead, status_code=201)
async def create_item_endpoint(data: ItemCreate, session: SessionDep, user: CurrentUser) -> Item:
    item = await create_item(session, user, data)
    await session.commit()
    await session.refresh(item)
    return item


@router.get("", response_model=ItemPage)
async def list_items_endpoint(
    session: SessionDep,
    user: CurrentUser,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    offset: Annotated[int, Query(ge=0, alias="cursor")] = 0,
) -> dict[str, Any]:
    items = await list_items(session, user, limit, offset)
    return {"items": items, "next_cursor": str(offset + limit) if len(items) == limit else None}


@router.get("/{item_id}", response_model=ItemRead)
async def get_item_endpoint(item_id: int, session: SessionDep, user: CurrentUser) -> Item:
    return await get_item(session, user, item_id)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


async def app_error_handler(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppError)
    return JSONResponse({"error": error.code, "message": str(error)}, error.status_code)


def create_app() -> FastAPI:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    app = FastAPI(title="Service", lifespan=lifespan)
    app.add_middleware(RequestIdMiddleware)
    app.add_exception_handler(AppError, app_error_handler)
    app.include_router(router)
    return app


app = create_app()
