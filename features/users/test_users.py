import asyncio
from unicodedata import normalize

import pytest
from argon2 import PasswordHasher

from kernel import PasswordVault, resources_of

RULES = {
    "create_user": "open",
    "list_users": "signed_in",
    "get_me": "signed_in",
    "update_me": "signed_in",
    "get_user": "signed_in",
    "update_user": "admin",
    "delete_user": "admin",
}
SAMPLES = {"update_me": lambda caller, number: {"full_name": f"Sampler {number}"}}
RULES_OUTSIDE_DEV = {"create_user": "admin"}
COSTS = {
    "create_user": 3,
    "list_users": 2,
    "get_me": 2,
    "get_user": 2,
    "update_me": 5,
    "update_user": 6,
    "delete_user": 6,
}
CAROL = {"email": "carol@example.com", "full_name": "Carol", "password": "correct horse battery"}


async def test_a_created_user_is_an_active_member_and_its_password_stays_secret(client, sql):
    answer = await client.post("/users", json=CAROL)
    user = answer.json()
    assert answer.status_code == 201
    assert user.pop("created_at") == user.pop("updated_at")
    assert user == {
        "id": 1,
        "email": "carol@example.com",
        "full_name": "Carol",
        "role": "member",
        "is_active": True,
        "version": 1,
    }
    assert (await sql.fetchval("SELECT password_hash FROM users")).startswith("$argon2id$")


@pytest.mark.parametrize(
    "change",
    [
        {"email": "carol"},
        {"email": "Carol <carol@example.com>"},
        {"email": f"{'x' * 250}@example.com"},
        {"email": "c\x00@example.com"},
        {"email": None},
        {"full_name": "   "},
        {"full_name": "x" * 101},
        {"password": "seven77"},
        {"password": "x" * 129},
        {"password": "\u0958" * 65},  # 130 characters, composed
        {"password": "NUL \x00 in it"},
        {"password": "e\u0301" * 7},  # 7 characters, composed
        {"password": "carol@EXAMPLE.com"},
        {"email": "carol@b\u00fccher.example", "password": "Carol@XN--BCHER-KVA.example"},
        {"password": "trustno1"},
        {"password": " Trustno1 "},
        {"password": "1234567890"},
        {"role": "admin"},
        {"is_active": False},
        {"id": 7},
        {"password_hash": "x"},
    ],
)
async def test_an_invalid_user_is_refused_without_repeating_the_input(client, sql, change):
    answer = await client.post("/users", json=CAROL | change)
    assert answer.status_code == 422
    assert await sql.fetchval("SELECT count(*) FROM users") == 0
    assert CAROL["password"] not in answer.text
    assert not [
        mistake for mistake in answer.json()["errors"] if set(mistake) > {"loc", "type", "msg"}
    ]


async def test_a_password_is_taken_as_it_is(client):
    for number, password in enumerate(["  spaces  ", "pässwörd✓🔑", "x" * 128]):
        email = f"user{number}@example.com"
        assert (
            await client.post("/users", json=CAROL | {"email": email, "password": password})
        ).status_code == 201
        form = {"username": email, "password": password}
        assert (await client.post("/auth/token", data=form)).status_code == 200
        form["password"] = password.strip() + "?"
        assert (await client.post("/auth/token", data=form)).status_code == 401


async def sign_in(client, email, password):
    return await client.post("/auth/token", data={"username": email, "password": password})


@pytest.mark.parametrize(
    ("email", "spelling"),
    [
        ("Jos\u00e9@example.com", "JOSE\u0301@Example.com"),
        ("jose\u0301@example.com", " jos\u00e9@example.com "),
        ("carol@b\u00fccher.example", "Carol@XN--BCHER-KVA.example"),
        ("carol@xn--bcher-kva.example", "carol@bu\u0308cher.example"),
    ],
)
async def test_who_signs_up_in_one_spelling_signs_in_in_the_other(client, email, spelling):
    assert (await client.post("/users", json=CAROL | {"email": email})).status_code == 201
    for spelled in (email, spelling, email.upper()):
        assert (await sign_in(client, spelled, CAROL["password"])).status_code == 200


@pytest.mark.parametrize("form", ["NFC", "NFD"])
async def test_a_password_is_one_password_in_each_unicode_form(client, sql, form):
    password = normalize(form, "p\u00e2ss\u00e9 compos\u00e9")
    assert (await client.post("/users", json=CAROL | {"password": password})).status_code == 201
    for other in ("NFC", "NFD"):
        answer = await sign_in(client, "carol@example.com", normalize(other, password))
        assert answer.status_code == 200
    # An earlier version hashed the password without normalizing it.
    await sql.execute("UPDATE users SET password_hash = $1", PasswordHasher().hash(password))
    assert (await sign_in(client, "carol@example.com", password)).status_code == 200


async def test_of_racing_sign_ups_with_one_address_exactly_one_succeeds(client):
    spellings = ["carol@example.com", "CAROL@Example.COM"] * 10
    answers = await asyncio.gather(
        *[client.post("/users", json=CAROL | {"email": email}) for email in spellings]
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    refusal = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refusal["message"] == "email is already taken"
    assert refusal["fields"] == ["email"]


async def test_an_address_is_one_address_in_each_unicode_form(client):
    composed, decomposed = "Jos\u00e9@example.com", "Jose\u0301@example.com"
    assert (await client.post("/users", json=CAROL | {"email": composed})).status_code == 201
    assert (await client.post("/users", json=CAROL | {"email": decomposed})).status_code == 409
    idn, punycode = "carol@b\u00fccher.example", "carol@xn--bcher-kva.example"
    assert (await client.post("/users", json=CAROL | {"email": idn})).status_code == 201
    assert (await client.post("/users", json=CAROL | {"email": punycode})).status_code == 409


async def names(caller, **params):
    page = (await caller.get("/users", params=params)).json()
    return [user["full_name"] for user in page["items"]]


async def test_an_admin_lists_searches_and_filters_users_by_all(alice, bob, admin):
    await admin.patch(f"/users/{bob.user_id}", json={"is_active": False})
    assert await names(admin) == ["Alice", "Bob", "Admin"]
    assert await names(admin, order="-email") == ["Bob", "Alice", "Admin"]
    assert await names(admin, order="full_name") == ["Admin", "Alice", "Bob"]
    assert await names(admin, q="ALI") == ["Alice"]
    assert await names(admin, is_active=False) == ["Bob"]
    assert await names(admin, q="@example", is_active=True, limit=1) == ["Alice"]


async def test_a_member_sees_of_others_who_they_are_and_nothing_else(alice, bob, admin):
    expected = [
        {"id": caller.user_id, "full_name": name}
        for caller, name in ((alice, "Alice"), (bob, "Bob"), (admin, "Admin"))
    ]
    assert (await alice.get("/users")).json() == {"items": expected, "next_cursor": None}
    assert (await alice.get(f"/users/{bob.user_id}")).json() == expected[1]
    assert (await alice.get("/users/999")).json()["message"] == "user 999 not found"
    everything = await alice.get("/users/me")
    assert everything.json().keys() > {"email", "role", "is_active", "version"}
    for caller in (alice, admin):
        answer = await caller.get(f"/users/{alice.user_id}")
        assert answer.json() == everything.json()


@pytest.mark.parametrize("name", ["is_actve", "role", "Q", "order_by"])
async def test_a_filter_that_users_do_not_have_is_refused_by_its_name(admin, alice, name):
    for caller in (admin, alice):
        answer = await caller.get("/users", params={name: "x"})
        assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["query", name])


async def test_a_member_searches_and_orders_by_what_a_member_sees(alice, bob, admin):
    assert await names(alice, q="bo") == ["Bob"]
    assert await names(alice, q="@example") == []
    assert await names(alice, order="-full_name", limit=2) == ["Bob", "Alice"]
    for params in ({"order": "email"}, {"order": "-email"}, {"is_active": True}):
        answer = await alice.get("/users", params=params)
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    cursor = (await admin.get("/users", params={"order": "email", "limit": 1})).json()
    params = {"order": "id", "cursor": cursor["next_cursor"]}
    assert (await alice.get("/users", params=params)).status_code == 422


async def test_me_is_the_caller(alice):
    assert (await alice.get("/users/me")).json()["id"] == alice.user_id


async def test_one_can_change_ones_own_name(alice):
    answer = await alice.patch("/users/me", json={"full_name": "Alicia"})
    assert (answer.status_code, answer.json()["full_name"]) == (200, "Alicia")
    assert answer.json()["version"] == 2


async def test_a_new_password_needs_the_current_one(alice, client, password):
    new = {"password": "a new password"}
    assert (await alice.patch("/users/me", json=new)).status_code == 422
    wrong = await alice.patch("/users/me", json=new | {"current_password": "not this one"})
    assert (wrong.status_code, wrong.json()["error"]) == (403, "forbidden")
    right = await alice.patch("/users/me", json=new | {"current_password": password})
    assert right.status_code == 200
    for attempt, status in (("a new password", 200), (password, 401)):
        form = {"username": "alice@example.com", "password": attempt}
        assert (await client.post("/auth/token", data=form)).status_code == status


async def test_a_new_address_needs_the_current_password(alice, bob, client, password):
    change = {"email": " NEW@Example.com", "current_password": password}
    wrong = await alice.patch("/users/me", json=change | {"current_password": "not this one"})
    assert (wrong.status_code, wrong.json()["error"]) == (403, "forbidden")
    key = (await alice.post("/keys", json={"name": "Robot"})).json()["key"]
    machine = await client.patch("/users/me", json=change, headers={"X-API-Key": key})
    assert machine.status_code == 403
    assert (await alice.patch("/users/me", json=change)).json()["email"] == "new@example.com"
    for email, status in (("new@example.com", 200), ("alice@example.com", 401)):
        form = {"username": email, "password": password}
        assert (await client.post("/auth/token", data=form)).status_code == status
    refused = await bob.patch("/users/me", json=change)
    assert (refused.status_code, refused.json()["fields"]) == (409, ["email"])


@pytest.mark.parametrize("new", ["qwerty123", "alice@example.com", "Alice@Example.com "])
async def test_a_new_password_is_held_to_the_rule_of_the_first_one(alice, client, password, new):
    change = {"password": new, "current_password": password}
    assert (await alice.patch("/users/me", json=change)).status_code == 422
    form = {"username": "alice@example.com", "password": password}
    assert (await client.post("/auth/token", data=form)).status_code == 200


@pytest.mark.parametrize(("keep", "status"), [({}, 401), ({"keep_keys": True}, 200)])
async def test_a_new_password_ends_the_keys_unless_they_are_to_be_kept(
    alice, bob, client, password, keep, status
):
    keys = [
        (await caller.post("/keys", json={"name": "Robot"})).json()["key"]
        for caller in (alice, bob)
    ]
    change = {"password": "a new password", "current_password": password} | keep
    assert (await alice.patch("/users/me", json=change)).status_code == 200
    for key, expected in zip(keys, (status, 200), strict=True):
        answer = await client.get("/users/me", headers={"X-API-Key": key})
        assert answer.status_code == expected


async def test_a_key_changes_no_password(alice, client, password):
    key = (await alice.post("/keys", json={"name": "Robot"})).json()["key"]
    change = {"password": "a new password", "current_password": password}
    answer = await client.patch("/users/me", json=change, headers={"X-API-Key": key})
    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert (await alice.patch("/users/me", json={"keep_keys": True})).status_code == 422


@pytest.mark.parametrize(
    "body",
    [{"role": "admin"}, {"is_active": False}, {"email": "x@example.com"}, {"full_name": None}],
)
async def test_one_cannot_change_ones_own_role_or_activity_nor_the_address_just_so(alice, body):
    before = (await alice.get("/users/me")).json()
    assert (await alice.patch("/users/me", json=body)).status_code == 422
    assert (await alice.get("/users/me")).json() == before


async def test_an_admin_changes_roles_and_activity(admin, bob):
    answer = await admin.patch(f"/users/{bob.user_id}", json={"role": "admin"})
    assert (answer.status_code, answer.json()["role"]) == (200, "admin")
    assert (
        await bob.patch(f"/users/{admin.user_id}", json={"is_active": False})
    ).status_code == 200
    assert (await admin.get("/users/me")).status_code == 401
    assert (await bob.patch("/users/999", json={"role": "member"})).status_code == 404


@pytest.mark.parametrize("end", [{"role": "member"}, {"is_active": False}, None])
async def test_the_last_active_admin_stays_one(admin, alice, sign_up, end):
    async def end_admin(caller):
        url = f"/users/{admin.user_id}"
        return await (caller.patch(url, json=end) if end else caller.delete(url))

    former = await sign_up("Former", "admin", is_active=False)
    refused = await end_admin(admin)
    assert (refused.status_code, refused.json()["error"]) == (409, "conflict")
    assert (await admin.patch(f"/users/{admin.user_id}", json={"full_name": "A"})).is_success
    assert (await admin.delete(f"/users/{former.user_id}")).status_code == 204
    other = await sign_up("Other", "admin")
    assert (await end_admin(other)).is_success


async def test_of_two_admins_who_end_each_other_one_stays(sign_up, sql):
    active = "SELECT count(*) FROM users WHERE role = 'admin' AND is_active"
    for number in range(10):
        one, two = [await sign_up(f"{name} {number}", "admin") for name in ("One", "Two")]
        answers = await asyncio.gather(
            one.patch(f"/users/{two.user_id}", json={"is_active": False}),
            two.patch(f"/users/{one.user_id}", json={"role": "member"}),
        )
        assert any(answer.is_success for answer in answers)
        assert await sql.fetchval(active) == 1
        await sql.execute("UPDATE users SET is_active = false")


@pytest.fixture
async def pets(sql):
    """Rows that refer to users."""
    await sql.execute("CREATE TABLE pets (owner_id bigint REFERENCES users (id))")
    yield
    await sql.execute("DROP TABLE pets")


async def test_an_admin_deletes_a_user_whom_nothing_refers_to(admin, alice, bob, pets, sql):
    await sql.execute("INSERT INTO pets VALUES ($1)", bob.user_id)
    assert (await admin.delete(f"/users/{alice.user_id}")).status_code == 204
    assert (await alice.get("/users/me")).status_code == 401
    refused = await admin.delete(f"/users/{bob.user_id}")
    assert (refused.status_code, refused.json()["error"]) == (409, "conflict")
    assert refused.json()["message"] == "rows of pets still refer to it"


async def test_administration_is_not_for_members(alice, bob):
    for answer in (
        await alice.patch(f"/users/{bob.user_id}", json={"role": "admin"}),
        await alice.delete(f"/users/{bob.user_id}"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")


async def test_outside_dev_only_an_admin_creates_users(serve, alice, admin):
    async with serve(env="prod") as client:
        for headers, status in (({}, 401), (alice.headers, 403), (admin.headers, 201)):
            answer = await client.post("/users", json=CAROL, headers=headers)
            assert answer.status_code == status


async def test_sign_up_can_be_opened_outside_dev(serve, sql):
    async with serve(env="prod", signup_open=True) as client:
        assert (await client.post("/users", json=CAROL)).status_code == 201


@pytest.mark.slow
async def test_of_a_thousand_racing_sign_ups_each_address_succeeds_once(
    client, sql, running_app, monkeypatch
):
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(resources_of(running_app).get(PasswordVault), "_hasher", cheap)
    for number in range(50):
        spellings = [f"carol{number}@example.com", f"CAROL{number}@Example.COM"] * 10
        answers = await asyncio.gather(
            *[client.post("/users", json=CAROL | {"email": email}) for email in spellings]
        )
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    assert await sql.fetchval("SELECT count(*) FROM users") == 50
