"""One caller has so many requests under way and no more; what waits for nobody does not count."""

import asyncio

import httpx
import pytest
from fastapi.responses import StreamingResponse

from kernel.http.router import Router
from kernel.identity import in_flight
from kernel.identity.callers import CurrentUser, Viewer
from kernel.tests.processes import PATIENCE, until

MOST = 10  # ten times the one connection for writes
HOME, OFFICE = "192.0.2.1", "192.0.2.2"


def waiting():
    """Operations that need no connection, and end when they may."""
    router = Router(prefix="/peels", tags=["peels"])
    router.may_end, router.begun = asyncio.Event(), []

    async def wait():
        router.begun.append(1)
        await router.may_end.wait()

    @router.get("/known")
    async def known(_: CurrentUser) -> None:
        await wait()

    @router.post("/written")
    async def written(_: CurrentUser) -> None:
        await wait()

    @router.get("/stranger")
    async def stranger(_: Viewer) -> None:
        await wait()

    @router.get("/quick")
    async def quick(_: Viewer) -> None:
        """Nothing to wait for."""

    @router.get("/crash")
    async def crash(_: Viewer) -> None:
        raise ZeroDivisionError

    @router.get("/stream", response_class=StreamingResponse)
    async def stream(_: CurrentUser) -> StreamingResponse:
        async def lines():
            yield "begun"
            await wait()

        return StreamingResponse(lines())

    return router


class Served:
    """The service, asked from an address with somebody's credential."""

    def __init__(self, app, router):
        self.app, self.router, self.asked = app, router, []

    async def ask(self, path, who=None, address=HOME, method="GET", seconds=5.0):
        """The answer, which is to come within the time."""
        transport = httpx.ASGITransport(self.app, client=(address, 1), raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test")
        async with client, asyncio.timeout(seconds):
            headers = who.headers if who else {}
            return await client.request(method, f"/peels/{path}", headers=headers)

    async def fill(self, path, who=None, address=HOME, method="GET"):
        requests = [self.ask(path, who, address, method, seconds=PATIENCE) for _ in range(MOST)]
        self.asked += map(asyncio.create_task, requests)

        async def have_begun():
            return len(self.router.begun) == len(self.asked)

        await until(have_begun, PATIENCE)

    async def end(self):
        self.router.may_end.set()
        return {answer.status_code for answer in await asyncio.gather(*self.asked)}


@pytest.fixture(params=["short", "long"])
async def served(request, mount, monkeypatch):
    monkeypatch.setattr(in_flight, "LEAST", 1)
    if request.param == "long":
        monkeypatch.setattr("kernel.fast.routing.OFF", {"plan"})
    router = waiting()
    async with mount(router, pool_size=1, max_overflow=0) as client:
        yield Served(client.app, router)


def assert_refused(answer):
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    problem = answer.json()
    assert (problem["error"], problem["status"]) == ("too_many_requests", 429)
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("method", "path"), [("GET", "known"), ("POST", "written")])
async def test_an_account_has_so_many_requests_and_its_neighbours_as_many(
    served, alice, bob, method, path
):
    await served.fill(path, alice, method=method)
    for address in (HOME, OFFICE):  # one account, wherever it is
        assert_refused(await served.ask(path, alice, address, method))
    assert (await served.ask("quick", bob)).status_code == 200
    assert (await served.ask("quick")).status_code == 200
    await served.fill(path, bob, method=method)
    assert await served.end() == {200}
    assert (await served.ask("quick", alice)).status_code == 200


async def test_strangers_are_counted_by_their_address(served, alice):
    await served.fill("stranger")
    assert_refused(await served.ask("quick"))
    for address in (OFFICE, "2001:db8::1"):
        assert (await served.ask("quick", address=address)).status_code == 200
    await served.fill("stranger", address="2001:db8::1")
    assert_refused(await served.ask("quick", address="2001:db8::2"))
    assert await served.end() == {200}
    assert (await served.ask("quick")).status_code == 200


async def test_whatever_becomes_of_a_request_it_counts_no_longer(served, alice):
    for _ in range(2 * MOST):
        assert (await served.ask("crash", alice)).status_code == 500
        assert (await served.ask("nowhere")).status_code == 404
        request = asyncio.create_task(served.ask("known", alice))
        await asyncio.sleep(0.01)
        request.cancel()
    assert (await served.ask("quick", alice)).status_code == 200


async def test_a_stream_that_has_begun_does_not_count(served, alice):
    for _ in range(2):
        await served.fill("stream", alice)
    assert (await served.ask("quick", alice)).status_code == 200
    assert await served.end() == {200}
