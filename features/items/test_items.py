import asyncio

import pytest

RULES = {
    "create_item": "signed_in",
    "list_items": "signed_in",
    "get_item": "owner_or_admin",
    "update_item": "owner_or_admin",
    "delete_item": "owner_or_admin",
}
COSTS = {"create_item": 4, "list_items": 2, "get_item": 2, "update_item": 5, "delete_item": 5}


@pytest.fixture
async def item(alice):
    return (await alice.post("/items", json={"title": "Soup", "description": "leek"})).json()


async def test_a_created_item_is_the_callers(alice):
    answer = await alice.post("/items", json={"title": "  Soup ", "description": "leek"})
    item = answer.json()
    assert answer.status_code == 201
    assert item.pop("created_at") == item.pop("updated_at")
    assert item == {
        "id": 1,
        "title": "Soup",
        "description": "leek",
        "owner_id": alice.user_id,
        "version": 1,
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"title": None},
        {"title": " "},
        {"title": "x" * 201},
        {"title": " " + "x" * 200},
        {"title": "NUL \x00"},
        {"title": "x", "description": "x" * 2001},
        {"title": "x", "owner_id": 2},
    ],
)
async def test_an_invalid_item_is_refused(alice, sql, body):
    answer = await alice.post("/items", json=body)
    assert answer.status_code == 422
    assert await sql.fetchval("SELECT count(*) FROM items") == 0


async def test_a_list_holds_the_callers_items_newest_first(alice, bob):
    for title in ("one", "two", "three"):
        await alice.post("/items", json={"title": title})
    await bob.post("/items", json={"title": "bob's"})
    page = (await alice.get("/items")).json()
    assert [item["title"] for item in page["items"]] == ["three", "two", "one"]
    assert page["next_cursor"] is None


async def test_an_admins_list_holds_everybodys_items(alice, bob, admin):
    await alice.post("/items", json={"title": "alice's"})
    await bob.post("/items", json={"title": "bob's"})
    assert len((await admin.get("/items")).json()["items"]) == 2


async def test_a_list_is_filtered_by_the_owner(alice, bob, admin):
    for caller in (alice, bob, alice):
        await caller.post("/items", json={"title": "x"})

    async def seen(caller, owner):
        page = await caller.get("/items", params={"owner_id": owner.user_id})
        return [item["id"] for item in page.json()["items"]]

    assert (await seen(admin, alice), await seen(admin, bob)) == ([3, 1], [2])
    assert (await seen(alice, alice), await seen(alice, bob)) == ([3, 1], [])


async def test_a_list_refuses_a_parameter_that_it_does_not_know(alice):
    answer = await alice.get("/items", params={"ownerid": 7, "limit": 5, "order": "id", "q": "x"})
    assert answer.status_code == 422
    assert [error["loc"] for error in answer.json()["errors"]] == [["query", "ownerid"]]


@pytest.mark.parametrize(
    ("order", "titles"), [("title", ["a", "b", "c"]), ("-title", ["c", "b", "a"])]
)
async def test_pages_follow_each_other_in_the_chosen_order(alice, order, titles):
    for title in ("b", "c", "a"):
        await alice.post("/items", json={"title": title})
    first = await alice.get("/items", params={"limit": 2, "order": order})
    second = await alice.get(first.headers["link"].split(";")[0].strip("<>"))
    listed = [item["title"] for page in (first, second) for item in page.json()["items"]]
    assert listed == titles
    assert second.json()["next_cursor"] is None
    assert "link" not in second.headers


async def test_a_search_finds_text_within_titles_and_takes_wildcards_literally(alice):
    for title in ("100% leek", "100 leeks", "back\\slash", "under_score"):
        await alice.post("/items", json={"title": title})

    async def titles_with(q):
        page = await alice.get("/items", params={"q": q, "order": "id"})
        return [item["title"] for item in page.json()["items"]]

    assert await titles_with("LEEK") == ["100% leek", "100 leeks"]
    assert await titles_with("100%") == ["100% leek"]
    assert await titles_with("ack\\s") == ["back\\slash"]
    assert await titles_with("der_s") == ["under_score"]


async def test_a_search_for_less_than_three_characters_finds_what_begins_so(alice):
    for title in ("Leek", "LE", "Le%ek", "1 leek", "le"):
        await alice.post("/items", json={"title": title})

    async def titles_with(q):
        page = await alice.get("/items", params={"q": q, "order": "id"})
        return [item["title"] for item in page.json()["items"]]

    assert await titles_with("le") == ["Leek", "LE", "Le%ek", "le"]
    assert await titles_with("le%") == ["Le%ek"]
    assert await titles_with("1") == ["1 leek"]
    assert await titles_with("%") == []
    assert len(await titles_with("")) == 5


async def test_an_item_can_be_read(alice, admin, item):
    for caller in (alice, admin):
        answer = await caller.get("/items/1")
        assert (answer.status_code, answer.json()) == (200, item)


async def test_an_item_that_does_not_exist_is_not_found(alice):
    answer = await alice.get("/items/7")
    assert answer.status_code == 404
    assert answer.json()["message"] == "item 7 not found"


async def test_someone_elses_item_is_not_found(bob, item):
    for answer in (
        await bob.get("/items/1"),
        await bob.patch("/items/1", json={"title": "mine"}),
        await bob.delete("/items/1"),
    ):
        assert answer.status_code == 404
        assert answer.json()["message"] == "item 1 not found"


async def test_an_update_changes_what_is_given_and_nothing_else(alice, item):
    answer = await alice.patch("/items/1", json={"title": "Stew"})
    changed = answer.json()
    assert answer.status_code == 200
    assert changed.pop("updated_at") > item.pop("updated_at")
    assert changed == item | {"title": "Stew", "version": 2}
    cleared = (await alice.patch("/items/1", json={"description": None})).json()
    assert (cleared["title"], cleared["description"]) == ("Stew", None)


@pytest.mark.parametrize("body", [{"title": None}, {"title": ""}, {"version": 9}, {"id": 2}, []])
async def test_an_invalid_update_is_refused(alice, item, body):
    assert (await alice.patch("/items/1", json=body)).status_code == 422
    assert (await alice.get("/items/1")).json() == item


async def test_of_two_racing_updates_none_is_lost_silently(alice, item):
    answers = await asyncio.gather(
        *[alice.patch("/items/1", json={"title": f"t{n}"}) for n in range(8)]
    )
    won = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (await alice.get("/items/1")).json()["version"] == 1 + len(won)


async def test_a_deleted_item_is_gone(alice, item):
    answer = await alice.delete("/items/1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await alice.get("/items/1")).status_code == 404
    assert (await alice.delete("/items/1")).status_code == 404


async def test_items_are_for_signed_in_callers(client):
    answer = await client.get("/items")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer, APIKey"


@pytest.mark.parametrize("pattern", ["%soup%", "so%", "s%"])
async def test_a_search_can_use_its_index(sql, pattern):
    async with sql.transaction():
        await sql.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
        await sql.execute("SET LOCAL enable_indexonlyscan = off")
        plan = await sql.fetch("EXPLAIN SELECT FROM items WHERE title ILIKE $1", pattern)
    assert any("ix_items_title_search" in row[0] for row in plan)
