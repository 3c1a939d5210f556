"""The service with operations that last, for tests of its end: `kernel.tests.faults.ending:app`."""

import asyncio
from collections.abc import AsyncIterable

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from sqlalchemy import func, select

from kernel.http.application import app_on_demand
from kernel.http.dependencies import Reader
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.settings import Settings
from service import create_app as create_service

router = Router(prefix="/ending")


@router.get("/wait/{seconds}")
async def wait(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@router.post("/uploads")
async def upload(content: dict[str, int]) -> int:
    return len(content)


@router.get("/events", response_class=EventSourceResponse)
async def events() -> AsyncIterable[int]:
    yield 1
    await asyncio.Event().wait()


@router.get("/download")
async def download() -> StreamingResponse:
    async def parts() -> AsyncIterable[bytes]:
        for _ in range(4):
            yield b"part"
            await asyncio.sleep(0.5)

    return StreamingResponse(parts(), media_type="text/plain")


SLEEP = select(func.pg_sleep(0.1).label("slept"))


@router.get("/query")
async def query(_: CurrentUser, reader: Reader) -> int:
    return len(await reader.fetch(SLEEP))


@router.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("open")
    async for text in socket.iter_text():
        await socket.send_text(text)


@router.websocket("/deaf")
async def deaf(socket: WebSocket) -> None:
    await socket.accept()
    await asyncio.Event().wait()


def create_app(settings: Settings) -> FastAPI:
    app = create_service(settings)
    app.include_router(router)
    return app


__getattr__ = app_on_demand(create_app)
