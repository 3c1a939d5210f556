"""Pages are complete, stable and bounded, whatever happens between them."""

import base64
import json

import pytest

from kernel.data.paging import like


async def fill(sql, owner_id, count):
    await sql.execute(
        "INSERT INTO peelings (title, owner_id)"
        " SELECT 'title ' || n % 7, $1 FROM generate_series(1, $2) n",
        owner_id,
        count,
    )


async def walk(caller, path, **params):
    rows, cursor = [], {}
    while cursor is not None:
        page = (await caller.get(path, params=params | cursor)).json()
        rows += page["items"]
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    return rows


@pytest.mark.parametrize("order", ["id", "-id", "title", "-title"])
@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_a_walk_over_the_pages_meets_each_row_once_and_in_order(alice, sql, order, limit):
    await fill(sql, alice.user_id, 50)
    rows = await walk(alice, "/peelings", order=order, limit=limit)
    column, step = order.lstrip("-"), -1 if order.startswith("-") else 1
    assert len({row["id"] for row in rows}) == len(rows) == 50
    assert rows == sorted(rows, key=lambda row: (row[column], row["id"]))[::step]


async def test_rows_that_come_and_go_between_pages_move_no_other(alice, sql):
    await fill(sql, alice.user_id, 10)
    first = (await alice.get("/peelings", params={"order": "id", "limit": 5})).json()
    await sql.execute("DELETE FROM peelings WHERE id IN (1, 5, 7)")
    await fill(sql, alice.user_id, 1)
    params = {"order": "id", "limit": 5, "cursor": first["next_cursor"]}
    second = (await alice.get("/peelings", params=params)).json()
    assert [row["id"] for row in second["items"]] == [6, 8, 9, 10, 11]


async def test_the_last_full_page_has_no_next(alice, sql):
    await fill(sql, alice.user_id, 4)
    first = (await alice.get("/peelings", params={"limit": 2})).json()
    second = (
        await alice.get("/peelings", params={"limit": 2, "cursor": first["next_cursor"]})
    ).json()
    assert (len(second["items"]), second["next_cursor"]) == (2, None)


async def test_the_next_link_keeps_the_other_parameters(alice, sql):
    await fill(sql, alice.user_id, 20)
    answer = await alice.get("/peelings", params={"limit": 1, "q": "title 3", "order": "title"})
    link = answer.headers["link"]
    assert link.startswith("</peelings?limit=1&q=title+3&order=title&cursor=")
    assert link.endswith('>; rel="next"')
    following = await alice.get(link.split(">")[0].lstrip("<"))
    assert following.json()["items"][0]["title"] == "title 3"


async def test_a_cursor_that_the_list_did_not_give_out_is_refused(alice, sql):
    await fill(sql, alice.user_id, 3)
    cursor = (await alice.get("/peelings", params={"limit": 1})).json()["next_cursor"]
    raw = base64.urlsafe_b64decode(cursor)
    forged = json.dumps(["-id", 999, 999]).encode()
    changed = bytes([raw[0], raw[1] ^ 1]) + raw[2:]
    for bad in (
        "x",
        "",
        "\u00fc",
        "=",
        cursor[:-4],
        cursor + "AAAA",
        base64.urlsafe_b64encode(forged + raw[-16:]).decode(),
        base64.urlsafe_b64encode(changed).decode(),
        base64.urlsafe_b64encode(b"").decode(),
    ):
        answer = await alice.get("/peelings", params={"cursor": bad})
        assert answer.status_code == 422
        assert answer.json()["message"] == "the cursor is not valid for this list"


async def test_a_cursor_of_another_list_or_order_is_refused(alice, bob, sql):
    await fill(sql, alice.user_id, 3)
    cursor = (await alice.get("/peelings", params={"limit": 1})).json()["next_cursor"]
    assert (
        await alice.get("/peelings", params={"cursor": cursor, "order": "id"})
    ).status_code == 422
    users = (await alice.get("/users", params={"limit": 1, "order": "-id"})).json()["next_cursor"]
    assert (await alice.get("/peelings", params={"cursor": users})).status_code == 422


@pytest.mark.parametrize("order", ["id", "-id", "title", "-title"])
async def test_the_deepest_page_is_read_from_an_index_like_the_first(alice, sql, order):
    await fill(sql, alice.user_id, 5000)
    await sql.execute("ANALYZE peelings")
    column, way = order.lstrip("-"), "<" if order.startswith("-") else ">"
    direction = "DESC" if order.startswith("-") else "ASC"
    plan = await sql.fetch(
        f"EXPLAIN SELECT * FROM peelings WHERE owner_id = $1 AND ({column}, id) {way} ($2, 2500)"
        f" ORDER BY {column} {direction}, id {direction} LIMIT 51",
        alice.user_id,
        2500 if column == "id" else "title 3",
    )
    lines = "\n".join(row[0] for row in plan)
    assert "Index Scan" in lines
    assert "Sort" not in lines


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (None, None),
        ("soup", "%soup%"),
        ("\u65e5\u672c\u8a9e", "%\u65e5\u672c\u8a9e%"),
        ("- r2d", "%- r2d%"),
        ("100%", "%100\\%%"),
        ("", "%"),
        ("so", "so%"),
        ("\u65e5\u672c", "\u65e5\u672c%"),
        ("r_s", "r\\_s%"),
        ("a b c", "a b c%"),
        ("%%%", "\\%\\%\\%%"),
        ("\\", "\\\\%"),
    ],
)
def test_a_text_is_looked_for_anywhere_if_it_has_three_letters_or_digits_in_a_row(text, pattern):
    assert like(text) == pattern


async def test_a_search_finds_a_letter_however_it_is_composed(alice):
    for title in ("Cr\u00e8me", "Creme"):
        await alice.post("/peelings", json={"title": title})
    for q in ("cr\u00e8me", "Cre\u0300me", "CRE\u0300"):
        page = (await alice.get("/peelings", params={"q": q})).json()
        assert [row["title"] for row in page["items"]] == ["Cr\u00e8me"]
