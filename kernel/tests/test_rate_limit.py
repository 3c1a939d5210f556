"""So many requests of one caller in a while, and then a 429 that says when there are more."""

import httpx
import pytest
from fastapi import WebSocket

from kernel import metrics
from kernel.context import RequestContext
from kernel.exposition import render
from kernel.http.router import Router
from kernel.identity import windows
from kernel.identity.callers import CurrentUser, Viewer
from kernel.identity.windows import MemoryWindows, Rate
from kernel.metrics import Values

HOME, OFFICE = "192.0.2.1", "192.0.2.2"
MOST = 5
REFUSED_BY_LIMIT = 'http_requests_refused_total{cause="rate_limit"} 2.0'
router = Router(prefix="/peels", tags=["peels"])
handled = []


@router.get("/open")
async def open_to_all() -> None:
    handled.append("open")


@router.get("/known")
async def known(_: CurrentUser) -> None:
    handled.append("known")


@router.post("/written")
async def written(_: CurrentUser) -> None:
    handled.append("written")


@router.get("/viewed")
async def viewed(_: Viewer) -> None:
    handled.append("viewed")


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    await socket.accept()


class Asking:
    """The service, asked from an address with some credential."""

    def __init__(self, app):
        self.app = app

    async def ask(self, path="/peels/open", who=None, address=HOME, method="GET", **headers):
        headers = dict(who.headers if who else {}) | {
            name.replace("_", "-"): v for name, v in headers.items()
        }
        transport = httpx.ASGITransport(self.app, client=(address, 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers)

    async def statuses(self, count, *args, **options):
        return [(await self.ask(*args, **options)).status_code for _ in range(count)]


@pytest.fixture(params=["short", "long"])
async def service(request, mount, monkeypatch):
    if request.param == "long":
        monkeypatch.setattr("kernel.fast.routing.OFF", {"plan"})
    handled.clear()
    async with mount(router, rate_limit=f"{MOST}/minute") as client:
        yield Asking(client.app)


async def test_a_caller_over_the_limit_gets_a_429_with_retry_after(service):
    for left in range(MOST - 1, -1, -1):
        answer = await service.ask()
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == f'"caller";q={MOST};w=60'
        assert answer.headers["ratelimit"] in {f'"caller";r={left};t={t}' for t in (59, 60)}
    answer = await service.ask()
    problem = answer.json()
    assert (answer.status_code, problem["error"]) == (429, "too_many_requests")
    assert problem["request_id"] == answer.headers["x-request-id"]
    wait = int(answer.headers["retry-after"])
    assert 60 <= wait <= 60 + 60 / MOST
    assert answer.headers["ratelimit"] == f'"caller";r=0;t={wait}'
    assert len(handled) == MOST


async def test_a_caller_without_a_credential_is_counted_by_address(service):
    assert await service.statuses(MOST + 1) == [200] * MOST + [429]
    assert await service.statuses(1, address=OFFICE) == [200]
    assert await service.statuses(MOST, address="2001:db8::1") == [200] * MOST
    assert await service.statuses(1, address="2001:db8::2") == [429]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/peels/known"), ("POST", "/peels/written"), ("GET", "/peels/viewed")],
)
async def test_an_account_is_one_caller_from_every_address_and_apart_from_others(
    service, alice, bob, method, path
):
    await service.statuses(MOST + 1)  # the address has no more
    for who in (alice, bob):
        options = {"path": path, "who": who, "method": method}
        assert await service.statuses(MOST - 1, **options) == [200] * (MOST - 1)
        assert await service.statuses(2, **options, address=OFFICE) == [200, 429]
    assert len(handled) == 3 * MOST


async def test_all_credentials_of_an_account_are_one_caller(service, alice, sign_in):
    key = (await alice.post("/keys", json={"name": "x"})).json()["key"]
    assert await service.statuses(3, "/peels/known", alice) == [200] * 3
    assert await service.statuses(3, "/peels/known", x_api_key=key) == [200, 200, 429]
    # Known by now, it is an account's wherever it is shown.
    assert await service.statuses(1, "/peels/open", x_api_key=key) == [429]


async def test_who_is_over_the_limit_costs_no_query(service, alice, log):
    await service.statuses(MOST, "/peels/known", alice)
    answer = await service.ask("/peels/known", alice)
    assert answer.status_code == 429
    assert '"0 queries"' in answer.headers["server-timing"]


async def test_invalid_credentials_are_limited_by_address_and_lock_out_no_account(service, alice):
    await service.ask("/peels/known", alice)
    made_up = [
        (await service.ask("/peels/known", x_api_key=f"no{n}")).status_code for n in range(7)
    ]
    assert made_up == [401] * MOST + [429] * 2
    assert await service.statuses(1, "/peels/known", alice) == [200]
    # Strangers are none of these, and neither is another address.
    assert await service.statuses(1) == [200]
    assert await service.statuses(1, "/peels/known", x_api_key="no", address=OFFICE) == [401]


async def test_a_made_up_credential_does_not_get_around_the_limit_of_what_is_open(service):
    answers = [
        (await service.ask("/peels/open", x_api_key=f"no{n}")).status_code for n in range(MOST + 2)
    ]
    assert answers == [200] * MOST + [429] * 2


async def test_an_ended_credential_does_not_count_for_its_account(service, alice):
    key = (await alice.post("/keys", json={"name": "x"})).json()
    assert await service.statuses(1, "/peels/known", x_api_key=key["key"]) == [200]
    await alice.delete(f"/keys/{key['id']}")
    assert await service.statuses(2, "/peels/known", x_api_key=key["key"]) == [401, 401]
    assert await service.statuses(3, "/peels/known", alice) == [200] * 3  # one of these was counted
    assert await service.statuses(1, "/peels/known", alice) == [429]


async def test_refused_requests_do_not_extend_the_wait(service):
    await service.statuses(MOST)
    waits = [int((await service.ask()).headers["retry-after"]) for _ in range(3 * MOST)]
    assert max(waits) == waits[0]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_are_not_counted(service, path):
    assert await service.statuses(MOST + 1, path) == [200] * (MOST + 1)
    assert "ratelimit" not in (await service.ask(path)).headers
    assert await service.statuses(MOST) == [200] * MOST


async def test_requests_for_unknown_paths_are_counted(service):
    assert await service.statuses(MOST + 1, "/nowhere") == [404] * MOST + [429]


async def test_handshakes_are_counted(mount):
    async with mount(router, rate_limit="2/minute") as client:
        for _ in range(2):
            async with client.socket("/peels/live") as socket:
                assert socket.status == 101
        async with client.socket("/peels/live") as socket:
            assert socket.status == 429
            assert socket.json()["error"] == "too_many_requests"
            assert int(socket.headers["retry-after"]) >= 60


async def test_without_a_limit_there_is_none(mount):
    async with mount(router) as client:
        answers = [await Asking(client.app).ask() for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any("ratelimit" in answer.headers for answer in answers)


# Windows.


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


async def test_a_window_slides():
    clock = Clock()
    memory = MemoryWindows(Rate(10, 60), clock)

    async def passing(most):
        return [(await memory.count("a", 1)).may_pass for _ in range(most)].count(True)

    assert await passing(20) == 10
    clock.now += 59
    assert await passing(20) == 0
    clock.now += 31  # half of the window before still counts
    assert await passing(20) == 5
    clock.now += 120
    assert await passing(20) == 10


async def test_after_the_wait_that_is_told_one_more_may_pass_and_not_before():
    clock = Clock()
    memory = MemoryWindows(Rate(7, 60), clock)
    for step in (0.0, 3.0, 60.0, 13.7, 80.0, 0.5):
        clock.now += step
        while (quota := await memory.count("a", 1)).may_pass:
            clock.now += 0.1
        clock.now += quota.seconds - 0.01
        assert not (await memory.count("a", 0)).may_pass
        clock.now += 0.02
        assert (await memory.count("a", 0)).may_pass


async def test_reading_a_window_counts_nothing():
    memory = MemoryWindows(Rate(1, 60))
    for _ in range(3):
        assert (await memory.count("a", 0)).may_pass
    assert (await memory.count("a", 1)).may_pass
    assert not (await memory.count("a", 0)).may_pass


async def test_callers_who_are_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr(windows, "MOST_CALLERS", 100)
    clock = Clock()
    memory = MemoryWindows(Rate(10, 60), clock)
    for number in range(1000):
        await memory.count(f"{number}", 1)
        assert len(memory._windows) + len(memory._older) <= 200
    await memory.count("a", 1)
    clock.now += 121
    await memory.count("b", 1)
    clock.now += 121
    await memory.count("b", 1)
    assert "a" not in {*memory._windows, *memory._older}


async def test_a_caller_with_an_open_window_is_not_forgotten():
    clock = Clock()
    memory = MemoryWindows(Rate(10, 60), clock)
    clock.now += 119
    for _ in range(10):
        await memory.count("a", 1)
    clock.now += 2  # those of before are aside now
    assert not (await memory.count("a", 1)).may_pass


def test_a_context_has_no_limit_of_its_own():
    assert RequestContext().rate_limiter is None


async def test_refusals_are_counted_wherever_the_caller_is_known(service, alice):
    metrics.STATE.use(Values())
    key = (await alice.post("/keys", json={"name": "x"})).json()["key"]
    await service.statuses(MOST, "/peels/known", alice)
    assert await service.statuses(1, "/peels/known", x_api_key=key) == [429]  # by looking it up
    assert await service.statuses(1, "/peels/known", x_api_key=key) == [429]  # by remembering it
    assert REFUSED_BY_LIMIT in render("")[0].decode().splitlines()
