import pytest
from pydantic import SecretStr

TOKEN = "a-scrapers-own-" + "4f1c0b7e9d2a6835" * 2
PRODUCTION = {"env": "prod", "metrics_token": SecretStr(TOKEN)}


def bearer(token):
    return {"Authorization": f"Bearer {token}".encode("latin-1")}


async def test_in_development_anybody_may_look(client):
    await client.get("/livez")
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    assert 'http_requests_total{method="GET",route="/livez",status="200"}' in answer.text
    assert '"0 queries"' in answer.headers["server-timing"]


async def test_a_scraper_has_the_format_that_it_asks_for(client):
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = await client.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("version", ["x", "1.x", "", "1..0", "9" * 30])
async def test_a_version_that_is_none_is_no_error(client, version):
    accept = {"Accept": f"application/openmetrics-text;version={version}"}
    answer = await client.get("/metrics", headers=accept)
    assert (answer.status_code, "http_requests" in answer.text) == (200, True)


async def test_elsewhere_who_has_the_token_may_look_and_nobody_else(serve):
    async with serve(**PRODUCTION) as client:
        for headers in (bearer(TOKEN), {"Authorization": f"bearer {TOKEN}"}):  # RFC 9110 §11.1
            assert (await client.get("/metrics", headers=headers)).status_code == 200
        for headers in (
            {},
            bearer(""),
            bearer(TOKEN[:-1]),
            bearer("é"),
            {"X-API-Key": TOKEN},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
        ):
            refused = await client.get("/metrics", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in refused.text


async def test_without_a_token_there_is_nothing_to_see_elsewhere(serve):
    async with serve(env="prod", metrics_token=None) as client:
        answer = await client.get("/metrics", headers=bearer(TOKEN))
        nowhere = await client.get("/nowhere")
    assert (answer.status_code, nowhere.status_code) == (404, 404)
    assert answer.json() | {"request_id": ""} == nowhere.json() | {"request_id": ""}


async def test_a_token_that_is_set_counts_in_development_too(serve):
    async with serve(metrics_token=SecretStr(TOKEN)) as client:
        assert (await client.get("/metrics")).status_code == 401


async def test_it_answers_while_the_database_is_down(serve):
    nowhere = SecretStr("postgresql://service@127.0.0.1:1/service")
    async with serve(**PRODUCTION, database_url=nowhere) as client:
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.get("/metrics", headers=bearer(TOKEN))
    assert answer.status_code == 200
    assert 'database_refusals_total{pool="probe",reason="unreachable"}' in answer.text


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_it_is_there_to_be_read(client, method):
    assert (await client.request(method, "/metrics")).status_code == 405
