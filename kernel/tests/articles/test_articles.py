"""A foreign team's slice, which the walks have to be told a few things about."""

import json
from itertools import product

import httpx
import pytest

from kernel import Sample

AUTHORS = {"like": "owner_or_admin", "other": 403}
RULES = {
    "create_peeled_article": "signed_in",
    "list_peeled_articles": "signed_in",
    "preview_peeled_article": "signed_in",
    "get_peeled_article": {"like": "open", "expired": 401, "deactivated": 401},
    "update_peeled_article": AUTHORS,
    "delete_peeled_article": AUTHORS,
    "publish_peeled_article": AUTHORS,
    "withdraw_peeled_article": AUTHORS,
    "tag_peeled_article": AUTHORS,
    "untag_peeled_article": AUTHORS,
    "add_peeled_sections": AUTHORS,
    "set_peeled_cover": AUTHORS,
    "translate_peeled_article": AUTHORS,
    "stream_peeled_article": "owner",
    "create_peeled_tag": "admin",
    "list_peeled_tags": "signed_in",
    "create_peeled_country": "admin",
    "get_peeled_country": "signed_in",
    "rename_peeled_country": "admin",
    "delete_peeled_country": "admin",
}
KEYS = {"peeled_slug": "article.slug"}
COSTS = {"preview_peeled_article": 1, "tag_peeled_article": 7, "untag_peeled_article": 6}


async def publish(caller, url):
    return await caller.post(f"{url}/publication")


async def withdraw_later(caller, url):
    return await caller.post(url)


async def tag(caller, url):
    return await caller.put(url)


BEFORE = {
    "get_peeled_article": publish,
    "withdraw_peeled_article": withdraw_later,
    "untag_peeled_article": tag,
}
SAMPLES = {
    "create_peeled_country": lambda caller, number: {"id": f"C{number}", "name": "Country"},
    "create_peeled_tag": lambda caller, number: {"name": f"tag{number}"},
    "translate_peeled_article": Sample(params={"language": "de"}),
    "set_peeled_cover": Sample(files={"file": b"cover"}, headers={"X-Alt-Text": "A cover"}),
}


def translator(request):
    return httpx.Response(200, json={"text": f"[{json.loads(request.content)['text']}]"})


UPSTREAMS = {"https://translator.example/": translator}
NO_VERSION = "a link is there or not, and has no version"
LINK = {"test_of_many_changes_of_one_version_exactly_one_wins": NO_VERSION}
OWN_KEY = {"test_a_column_that_is_not_the_clients_cannot_be_set": "the client chooses the key"}
SKIPS = {"tag_peeled_article": LINK, "untag_peeled_article": LINK, "create_peeled_country": OWN_KEY}


async def test_an_article_is_translated_by_another_service(alice, fake_http):
    fake_http["https://translator.example/"] = {"text": "Suppe"}
    made = (await alice.post("/peeled_articles", json={"article": {"title": "Soup"}})).json()
    url = f"/peeled_articles/{made['article']['slug']}/translation"
    answer = await alice.post(url, params={"language": "de"})
    assert answer.json() == {"language": "de", "title": "Suppe"}


HOSTILE = {
    "nul": "%00",
    "long": "x" * 5000,
    "120": "x" * 120,
    "surrogate": "%ED%A0%80",
    "slash": "a%2Fb",
    "newline": "a%0Ab",
    "only newline": "%0A",
    "blank": "%20",
    "percent": "%25",
    "plus": "%2B",
    "dots": "..%2F..",
    "no utf-8": "%FF",
    "quote": "%27%22",
    "1e9": "1e9",
    "number": "1",
    "negative": "-1",
    "huge": "9" * 40,
    "digits": "%D9%A1",
    "tag": "%22",
    "star": "*",
    "name": "peeled_articles",
}


CONTROLS = {"nul", "newline", "only newline"}  # no path has these


@pytest.mark.parametrize("key", HOSTILE)
@pytest.mark.parametrize(
    "collection", ["peeled_articles", "peeled_countries", "peeled_tags", "peelings"]
)
@pytest.mark.slow
async def test_a_key_that_is_nobodys_is_not_found_or_refused(alice, admin, collection, key):
    await alice.post("/peeled_articles", json={"article": {"title": "Soup"}})
    await admin.post("/peeled_countries", json={"id": "DE", "name": "Germany"})
    body = {"article": {"title": "x"}} if collection == "peeled_articles" else {"name": "x"}
    url = f"/{collection}/{HOSTILE[key]}"
    for path in (url, f"{url}/publication", f"{url}/peeled_tags/1"):
        for method, tag in product(("GET", "PUT", "PATCH", "DELETE", "POST"), (None, "*", '"1"')):
            headers = {"If-Match": tag} if tag else {}
            sent = {} if method in {"GET", "DELETE"} else {"json": body}
            answer = await admin.request(method, path, headers=headers, **sent)
            expected = {400} if key in CONTROLS else {404, 405, 412, 422}
            assert answer.status_code in expected, (method, path, tag)
            assert "x" * 100 not in answer.text
            assert len(answer.content) < 1000


async def test_who_asks_for_what_is_not_there_is_told_its_key(alice):
    for slug in ("no-soup", "s\u00fc\u00df"):
        answer = await alice.get(f"/peeled_articles/{slug}")
        assert answer.json()["message"] == f"article {slug} not found"
    assert (await alice.get("/peeled_countries/XX")).json()["message"] == "country XX not found"


async def test_a_slug_names_a_row_as_its_id_does(alice, sql):
    made = await alice.post("/peeled_articles", json={"article": {"title": "Soup"}})
    slug, first = made.json()["article"]["slug"], made.headers["etag"]
    body = {"article": {"title": "Stew"}}
    url = f"/peeled_articles/{slug}"
    changed = await alice.put(url, json=body, headers={"If-Match": first})
    assert changed.status_code == 200
    assert (await alice.put(url, json=body, headers={"If-Match": first})).status_code == 412
    publish = f"{url}/publication"
    assert (await alice.post(publish, headers={"If-Match": first})).status_code == 412
    assert await sql.fetchval("SELECT state FROM peeled_articles") == "draft"
    tag = changed.headers["etag"]
    assert tag == (await alice.get(url)).headers["etag"]
    assert (await alice.get(url, headers={"If-None-Match": tag})).status_code == 304
    assert (await alice.post(publish, headers={"If-Match": tag})).status_code == 200


async def test_a_row_with_a_text_key_is_read_changed_and_deleted(admin):
    made = await admin.post("/peeled_countries", json={"id": "DE", "name": "Germany"})
    tag = made.headers["etag"]
    assert (await admin.get("/peeled_countries/DE")).headers["etag"] == tag
    for status in (200, 412):
        answer = await admin.patch(
            "/peeled_countries/DE", json={"name": "Deutschland"}, headers={"If-Match": tag}
        )
        assert answer.status_code == status
    assert (
        await admin.delete("/peeled_countries/DE", headers={"If-Match": tag})
    ).status_code == 412
    assert (
        await admin.delete("/peeled_countries/DE", headers={"If-Match": '"2"'})
    ).status_code == 204
    assert (await admin.get("/peeled_countries/DE")).status_code == 404
