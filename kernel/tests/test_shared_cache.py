"""A shared cache in front of the service gives nobody another one's answer (RFC 9111)."""

import shutil
import socket
import subprocess
from contextlib import asynccontextmanager

import httpx
import pytest
from anyio import to_thread

from kernel.settings import ROOT
from kernel.tests.processes import end, serve, until

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.house,  # a team's service may have other paths
]
# Behind the second door, the cache does not learn what an answer says of itself.
CONFIGURATION = """
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
cache told
    total-max-size 4
    max-age 60
    process-vary on
cache untold
    total-max-size 4
    max-age 60
frontend told
    bind 127.0.0.1:{told}
    http-request cache-use told
    http-response cache-store told
    http-response set-header X-Cache HIT if !{{ srv_id -m found }}
    default_backend service
frontend untold
    bind 127.0.0.1:{untold}
    http-request cache-use untold
    http-response del-header Cache-Control
    http-response del-header Vary
    http-response cache-store untold
    http-response set-header X-Cache HIT if !{{ srv_id -m found }}
    default_backend service
backend service
    server one 127.0.0.1:{service}
"""
PERSONAL = ("/users/me", "/users", "/keys", "/auth/sign-ins?limit=5")
WORD = "correct horse"


@pytest.fixture(scope="module")
async def doors(database, tmp_path_factory):
    """Callers of the service through the cache, which learns what answers say, or does not."""
    folder = tmp_path_factory.mktemp("cache")
    async with (
        database() as url,
        serve(ROOT, database_url=url, jwt_secret="test" * 8) as service,
        cached(folder, service.port) as (told, untold),
    ):
        yield told, untold


@asynccontextmanager
async def cached(folder, port):
    if HAPROXY is None:
        pytest.fail("this needs HAProxy: apt-get install haproxy")
    ports = dict(zip(("told", "untold"), free_ports(2), strict=True))
    (folder / "haproxy.cfg").write_text(CONFIGURATION.format(service=port, **ports))
    process = subprocess.Popen(  # noqa: ASYNC220  # which returns at once
        [HAPROXY, "-db", "-f", folder / "haproxy.cfg"], start_new_session=True
    )
    try:
        async with client_at(ports["told"]) as told, client_at(ports["untold"]) as untold:
            for client in (told, untold):
                await until(lambda client=client: is_up(client), 10)
            yield told, untold
    finally:
        await to_thread.run_sync(end, process)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def client_at(port):
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=15)


async def is_up(client):
    try:
        return (await client.get("/livez")).status_code == 200
    except httpx.TransportError:
        return False


async def credentials_of(client, name):
    """A new account's id, the headers of its person and of its machine; and the answers that gave
    the secrets in them."""
    email = f"{name}@example.com"
    account = {"email": email, "full_name": name, "password": WORD}
    user_id = (await client.post("/users", json=account)).json()["id"]
    token = await client.post("/auth/token", data={"username": email, "password": WORD})
    bearer = {"Authorization": f"Bearer {token.json()['access_token']}"}
    key = await client.post("/keys", json={"name": name}, headers=bearer)
    old = {"refresh_token": token.json()["refresh_token"]}
    fresh = await client.post("/auth/refresh", json=old)
    return user_id, (bearer, {"X-API-Key": key.json()["key"]}), (token, key, fresh)


async def test_no_answer_crosses_a_shared_cache(doors):
    client, _ = doors
    alice, of_alice, given = await credentials_of(client, "alice")
    bob, of_bob, _ = await credentials_of(client, "bob")
    assert [answer.headers["cache-control"] for answer in given] == ["no-store"] * 3
    tags = set()
    for _ in range(2):
        for user_id, callers in ((alice, of_alice), (bob, of_bob)):
            for headers in callers:
                answers = {path: await client.get(path, headers=headers) for path in PERSONAL}
                tags.add((user_id, answers["/users/me"].headers["etag"]))
                assert answers["/users/me"].json()["id"] == user_id
                for answer in answers.values():
                    assert "x-cache" not in answer.headers
                    assert answer.headers["cache-control"] == "private, no-cache"
                    assert answer.headers["vary"] == "Authorization, X-API-Key"
        for path in PERSONAL:
            assert (await client.get(path)).status_code == 401
    # Nor does a tag make another one's answer one's own.
    assert len(tags) == 2
    for user_id, tag in tags:
        headers = (of_bob if user_id == alice else of_alice)[1] | {"If-None-Match": tag}
        assert (await client.get("/users/me", headers=headers)).status_code == 200


async def test_the_cache_keeps_what_is_for_everybody(doors):
    client, _ = doors
    answers = [await client.get("/livez") for _ in range(2)]
    assert answers[1].headers["x-cache"] == "HIT"


async def test_a_cache_that_does_not_learn_what_answers_say_lets_them_cross(doors):
    """Or these tests could not fail."""
    client, untold = doors
    carol, (_, key), _ = await credentials_of(client, "carol")
    await untold.get("/users/me", headers=key)
    crossed = await untold.get("/users/me")
    assert (crossed.headers.get("x-cache"), crossed.json()["id"]) == ("HIT", carol)
