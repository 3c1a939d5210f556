"""A foreign team's slice, which the walks have to be told a few things about."""

import json

import httpx

from kernel import Sample

AUTHORS = {"like": "owner_or_admin", "other": 403}
RULES = {
    "create_article": "signed_in",
    "list_articles": "signed_in",
    "preview_article": "signed_in",
    "get_article": {"like": "open", "expired": 401, "deactivated": 401},
    "update_article": AUTHORS,
    "delete_article": AUTHORS,
    "publish_article": AUTHORS,
    "withdraw_article": AUTHORS,
    "tag_article": AUTHORS,
    "untag_article": AUTHORS,
    "add_sections": AUTHORS,
    "set_cover": AUTHORS,
    "translate_article": AUTHORS,
    "stream_article": "owner",
    "create_tag": "admin",
    "list_tags": "signed_in",
}
KEYS = {"slug": "article.slug"}
COSTS = {"preview_article": 1, "tag_article": 7, "untag_article": 6}


async def publish(caller, url):
    return await caller.post(f"{url}/publication")


async def withdraw_later(caller, url):
    return await caller.post(url)


async def tag(caller, url):
    return await caller.put(url)


BEFORE = {"get_article": publish, "withdraw_article": withdraw_later, "untag_article": tag}
SAMPLES = {
    "create_tag": lambda caller, number: {"name": f"tag{number}"},
    "translate_article": Sample(params={"language": "de"}),
    "set_cover": Sample(files={"file": b"cover"}, headers={"X-Alt-Text": "A cover"}),
}


def translator(request):
    return httpx.Response(200, json={"text": f"[{json.loads(request.content)['text']}]"})


UPSTREAMS = {"https://translator.example/": translator}
NO_VERSION = "a link is there or not, and has no version"
LINK = {
    "test_a_matching_tag_lets_the_change_through": NO_VERSION,
    "test_of_many_changes_of_one_version_exactly_one_wins": NO_VERSION,
}
SKIPS = {"tag_article": LINK, "untag_article": LINK}


async def test_an_article_is_translated_by_another_service(alice, upstreams):
    upstreams["https://translator.example/"] = {"text": "Suppe"}
    made = (await alice.post("/articles", json={"article": {"title": "Soup"}})).json()
    url = f"/articles/{made['article']['slug']}/translation"
    answer = await alice.post(url, params={"language": "de"})
    assert answer.json() == {"language": "de", "title": "Suppe"}
