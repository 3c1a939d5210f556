import pytest

RULES = {
    "create_${one}": "signed_in",
    "list_${name}": "signed_in",
    "get_${one}": "${rule}",
    "update_${one}": "${rule}",
    "delete_${one}": "${rule}",
}
WRONG = [
% for field in fields:
% if not field.is_optional:
    {"${field.name}": None},
% endif
% for value in field.kind.wrong:
    {"${field.name}": ${value}},
% endfor
% endfor
    {"id": 7},
    {"unknown": 7},
]
% if filters:
# The parameter, the field that it is about, and whether it finds a row by its own value.
FILTERS = [
% for query, field in filters:
    ("${query}", "${field.name}", ${query in (field.name, f"{field.name}_min")}),
% endfor
]
% endif
<%
    unique = [field for field in fields if field.is_unique]
    optional = [field.name for field in fields if field.is_optional]
    changes = [field for field in fields if not field.target]
    varied = " | unique(number)" if unique else ""
    targets = [field for field in fields if field.target]
    needs = ["alice"] if any(field.target.name == "users" for field in targets) else []
    needs += ["make"] if any(field.target.name != "users" for field in targets) else []
%>\
% if optional:
OPTIONAL = {${", ".join(f'"{field}": None' for field in optional)}}
% endif


@pytest.fixture
${"async " if "make" in needs else ""}def body(${", ".join(needs)}):
    return {
% for field in fields:
% if not field.target:
        "${field.name}": ${field.valid},
% elif field.target.name == "users":
        "${field.name}": alice.user_id,
% else:
        "${field.name}": (await make("${field.target.path}"))["id"],
% endif
% endfor
    }


% if unique:
def unique(number):
    """What no two rows may share."""
    return {
% for field in unique:
        "${field.name}": ${field.kind.another},
% endfor
    }


% endif
@pytest.fixture
async def kept(alice, body):
    return (await alice.post("/${name}", json=body)).json()


% if is_owned:
async def test_a_created_${one}_is_the_callers(alice, body):
% else:
async def test_a_created_${one}_is_what_was_sent(alice, body):
% endif
    answer = await alice.post("/${name}", json=body)
    created = answer.json()
    assert answer.status_code == 201
    assert created.pop("created_at") == created.pop("updated_at")
    assert created == body | {"id": 1, ${'"owner_id": alice.user_id, ' if is_owned else ""}"version": 1}


% if optional:
async def test_what_is_optional_may_be_left_out(alice, body):
    needed = {name: body[name] for name in body.keys() - OPTIONAL.keys()}
    created = (await alice.post("/${name}", json=needed)).json()
    assert created == created | needed | OPTIONAL


% endif
@pytest.mark.parametrize("wrong", WRONG)
async def test_an_invalid_${one}_is_refused(alice, sql, body, wrong):
    answer = await alice.post("/${name}", json=body | wrong)
    assert answer.status_code == 422
    assert await sql.fetchval("SELECT count(*) FROM ${name}") == 0


% if is_owned:
async def test_a_list_holds_the_callers_${name}_newest_first(alice, bob, admin, body):
% if unique:
    for number, caller in enumerate((alice, bob, alice)):
        await caller.post("/${name}", json=body | unique(number))
% else:
    for caller in (alice, bob, alice):
        await caller.post("/${name}", json=body)
% endif

    async def seen(caller):
        return [row["id"] for row in (await caller.get("/${name}")).json()["items"]]

    assert (await seen(alice), await seen(bob)) == ([3, 1], [2])
    assert await seen(admin) == [3, 2, 1]
% else:
async def test_a_list_holds_everybodys_${name}_newest_first(alice, bob, body):
% if unique:
    for number, caller in enumerate((alice, bob, alice)):
        await caller.post("/${name}", json=body | unique(number))
% else:
    for caller in (alice, bob, alice):
        await caller.post("/${name}", json=body)
% endif
    page = (await bob.get("/${name}")).json()
    assert [row["id"] for row in page["items"]] == [3, 2, 1]
    assert page["next_cursor"] is None
% endif


% if filters or is_owned:
async def test_a_list_refuses_what_it_does_not_know(alice):
    assert (await alice.get("/${name}?unknown=7")).status_code == 422


% endif
% if filters:
@pytest.mark.parametrize(("query", "field", "is_found"), FILTERS)
async def test_a_list_can_be_filtered(alice, kept, query, field, is_found):
    value = "true" if query.endswith("_is_null") else kept[field]
    page = (await alice.get("/${name}", params={query: value})).json()
    assert page["items"] == ([kept] if is_found else [])


% endif
% for field in unique:
async def test_a_second_${one}_of_the_same_${field.name}_is_refused(alice, bob, kept, body):
    other = body | unique(1) | {"${field.name}": body["${field.name}"]}
    answer = await bob.post("/${name}", json=other)
    assert (answer.status_code, answer.json()["fields"]) == (409, ["${field.name}"])


% endfor
async def test_a_kept_${one}_can_be_read(alice, ${"admin" if is_owned else "bob"}, kept):
    for caller in (alice, ${"admin" if is_owned else "bob"}):
        answer = await caller.get("/${name}/1")
        assert (answer.status_code, answer.json()) == (200, kept)


async def test_an_unknown_${one}_is_not_found(alice):
    for answer in (
        await alice.get("/${name}/7"),
        await alice.patch("/${name}/7", json={}),
        await alice.delete("/${name}/7"),
    ):
        assert answer.status_code == 404
        assert answer.json()["message"] == "${words} 7 not found"


% if is_owned:
async def test_someone_elses_${one}_is_not_found(bob, kept):
    for answer in (
        await bob.get("/${name}/1"),
        await bob.patch("/${name}/1", json={}),
        await bob.delete("/${name}/1"),
    ):
        assert answer.status_code == 404
        assert answer.json()["message"] == "${words} 1 not found"


% endif
% if changes:
@pytest.mark.parametrize(
    "change",
    [
% for field in changes:
        {"${field.name}": ${field.other}},
% endfor
    ],
)
async def test_an_update_changes_what_is_given_and_nothing_else(alice, kept, change):
    answer = await alice.patch("/${name}/1", json=change)
    changed = answer.json()
    assert answer.status_code == 200
    assert (await alice.get("/${name}/1")).json() == changed
    assert changed.pop("updated_at") > kept.pop("updated_at")
    assert changed == kept | change | {"version": 2}


% endif
% if optional:
async def test_what_is_optional_can_be_cleared(alice, kept):
    cleared = (await alice.patch("/${name}/1", json=OPTIONAL)).json()
    assert cleared == kept | OPTIONAL | {"version": 2, "updated_at": cleared["updated_at"]}


% endif
% for field in targets:
<%
    is_user = field.target.name == "users"
%>\
async def test_the_${field.name}_is_of_a_row_that_is_there(alice, ${"bob" if is_user else "make"}, kept):
% if is_user:
    another = {"${field.name}": bob.user_id}
% else:
    another = {"${field.name}": (await make("${field.target.path}"))["id"]}
% endif
    changed = (await alice.patch("/${name}/1", json=another)).json()
    assert changed == changed | another
    answer = await alice.patch("/${name}/1", json={"${field.name}": 999})
    assert (answer.status_code, answer.json()["fields"]) == (409, ["${field.name}"])


% endfor
@pytest.mark.parametrize("wrong", WRONG)
async def test_an_invalid_update_is_refused(alice, kept, wrong):
    assert (await alice.patch("/${name}/1", json=wrong)).status_code == 422
    assert (await alice.get("/${name}/1")).json() == kept


async def test_a_deleted_${one}_is_gone(alice, kept):
    answer = await alice.delete("/${name}/1")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await alice.get("/${name}/1")).status_code == 404


async def test_${name}_are_for_signed_in_callers(client):
    answer = await client.get("/${name}")
    assert answer.status_code == 401
