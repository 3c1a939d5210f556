"""The walks fail in words that say which hook to write, and where."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from kernel.samples import Sample
from kernel.testing import (
    authorization,
    boundary,
    contract,
    instruments,
    round_trips,
    rules,
    versions,
)
from kernel.testing.matrix import matrix
from kernel.testing.sampler import Sampler
from kernel.testing.schemas import Schemas, dig, drop, put, written
from kernel.testing.walking import advice, marks_of
from kernel.tests.articles import test_articles as hooks

FILE = "kernel/tests/articles/test_articles.py"
OF_TAG = "/peeled_articles/{peeled_slug}/peeled_tags/{peeled_tag_id}"
ONLY_ACCOUNTANTS = {"like": "admin", "admin": 403, "accountant": 2}
cast, current_tag = authorization.cast, versions.current_tag  # fixtures


@pytest.fixture
def operation(walk):
    by_name = {each.name: each for each in walk.operations}
    return by_name.__getitem__


async def failure(awaitable):
    with pytest.raises((AssertionError, pytest.fail.Exception)) as failed:
        await awaitable
    return str(failed.value)


@pytest.mark.parametrize(
    ("rule", "role"),
    [
        ("admin", "admin"),
        ("owner", "admin"),
        ({"like": "admin", "accountant": 2}, "admin"),
        ({"like": "admin", "admin": 403, "accountant": 2}, "accountant"),
        ({"like": "admin", "clerk": 403, "admin": 403, "accountant": 2}, "accountant"),
        ({"like": "signed_in", "admin": 403, "owner": 2}, "admin"),
    ],
)
def test_an_operation_is_called_as_a_role_that_may(operation, monkeypatch, rule, role):
    monkeypatch.setitem(hooks.RULES, "update_peeled_article", rule)
    assert authorization.role_for(operation("update_peeled_article")) == role


async def test_the_walks_call_an_operation_as_that_role(app, operation, monkeypatch):
    signed_up = []

    async def sign_up(name, role="member"):
        signed_up.append((name, role))
        return role

    monkeypatch.setitem(hooks.RULES, "create_peeled_tag", ONLY_ACCOUNTANTS)
    make = instruments.sampler.__wrapped__
    for name, callers in (
        ("create_peeled_tag", [("Sampler", "accountant"), ("Admin", "admin")]),
        ("create_peeled_country", [("Sampler", "admin")]),
    ):
        signed_up.clear()
        called = SimpleNamespace(params={"operation": operation(name)})
        request = SimpleNamespace(node=SimpleNamespace(callspec=called))
        await make(request, app, sign_up, None)
        assert signed_up == callers


async def test_the_tag_of_an_actions_row_is_read_at_the_rows_own_path(
    sampler, operation, current_tag, sql
):
    request = await sampler.prepare(operation("publish_peeled_article"))
    await sampler.succeed(operation("create_peeled_article"))
    newest = "(SELECT max(id) FROM peeled_articles)"
    await sql.execute(f"UPDATE peeled_articles SET title = 'x' WHERE id = {newest}")
    tag = (await sampler.caller.get(request.path.removesuffix("/publication"))).headers["etag"]
    assert tag.startswith('"1-')
    assert await current_tag(request) == tag


# A hook that is missed.


async def test_without_keys_a_row_is_looked_for_by_its_id(app, admin, operation, monkeypatch):
    monkeypatch.delattr(hooks, "KEYS")
    told = await failure(Sampler(app, admin).succeed(operation("update_peeled_article")))
    assert "PUT /peeled_articles/{peeled_slug} (update_peeled_article) answered 404" in told
    assert f'{FILE} can say KEYS = {{"peeled_slug": "place.in.the.answer.that.made.it"}}' in told


async def test_a_key_that_is_nowhere_is_told(app, admin, operation, monkeypatch):
    monkeypatch.setitem(hooks.KEYS, "peeled_slug", "article.name")
    told = await failure(Sampler(app, admin).succeed(operation("update_peeled_article")))
    assert "(update_peeled_article): nothing gives its {peeled_slug}" in told
    assert "POST /peeled_articles (create_peeled_article) answered" in told
    assert f'{FILE} can say KEYS = {{"peeled_slug": ' in told


async def test_the_key_of_another_slices_parameter_is_not_taken(app, admin, operation, monkeypatch):
    monkeypatch.setitem(hooks.KEYS, "peeling_id", lambda caller: 4711)
    await Sampler(app, admin).succeed(operation("replace_peeling"))


async def test_a_row_that_is_not_there_to_be_changed_is_told(sampler, operation, current_tag):
    request = await sampler.prepare(operation("replace_peeling"))
    told = await failure(current_tag(replace(request, path="/peelings/999")))
    assert "PUT /peelings/{peeling_id} (replace_peeling): GET /peelings/999 answered 404" in told
    assert 'can say BEFORE = {"replace_peeling": lambda caller, url: ...}' in told


async def test_without_a_sample_a_body_is_refused(sampler, operation, monkeypatch):
    monkeypatch.delitem(hooks.SAMPLES, "create_peeled_tag")
    told = await failure(sampler.succeed(operation("create_peeled_tag")))
    assert "POST /peeled_tags (create_peeled_tag) answered 422" in told
    assert (
        f'{FILE} can say SAMPLES = {{"create_peeled_tag": lambda caller, number: {{...}}}}' in told
    )


async def test_without_a_state_before_it_an_operation_is_refused(sampler, operation, monkeypatch):
    monkeypatch.delitem(hooks.BEFORE, "withdraw_peeled_article")
    told = await failure(sampler.succeed(operation("withdraw_peeled_article")))
    assert (
        "DELETE /peeled_articles/{peeled_slug}/publication (withdraw_peeled_article) answered 409"
        in told
    )
    assert f'{FILE} can say BEFORE = {{"withdraw_peeled_article": lambda caller, url: ...}}' in told


async def test_a_state_that_cannot_be_made_is_told(sampler, operation, monkeypatch):
    monkeypatch.setitem(
        hooks.BEFORE, "withdraw_peeled_article", lambda caller, url: caller.get("/x")
    )
    told = await failure(sampler.succeed(operation("withdraw_peeled_article")))
    assert f"(withdraw_peeled_article): its BEFORE in {FILE} failed: GET /x: 404" in told


async def test_without_its_answer_another_service_is_out_of_reach(
    sampler, operation, fake_http, monkeypatch
):
    fake_http.clear()
    told = await failure(sampler.succeed(operation("translate_peeled_article")))
    assert (
        "POST /peeled_articles/{peeled_slug}/translation (translate_peeled_article) answered 502"
        in told
    )
    assert f'{FILE} can say UPSTREAMS = {{"https://translator.example/v1/translate": ' in told


@pytest.mark.parametrize("rule", [None, "signed-in", {"other": 403}, {"like": "nobody"}])
def test_without_a_rule_an_operation_is_told(operation, monkeypatch, rule):
    monkeypatch.setitem(hooks.RULES, "create_peeled_tag", rule)
    with pytest.raises(AssertionError) as failed:
        authorization.test_each_operation_has_its_rule(operation("create_peeled_tag"))
    assert "POST /peeled_tags (create_peeled_tag)" in str(failed.value)
    assert f'{FILE} can say RULES = {{"create_peeled_tag": "signed_in"}}  # one of ' in str(
        failed.value
    )


async def test_a_caller_who_gets_something_else_is_told(
    app, client, cast, fake_http, operation, monkeypatch
):
    monkeypatch.setitem(hooks.RULES, "update_peeled_article", "owner_or_admin")
    told = await failure(
        authorization.obeys(app, client, cast, operation("update_peeled_article"), "RULES")
    )
    assert (
        "PUT /peeled_articles/{peeled_slug} (update_peeled_article) does not keep to its rule"
        in told
    )
    assert "other: expected 404, got 403" in told
    assert f'{FILE} can say RULES = {{"update_peeled_article": ' in told


async def test_a_cost_that_is_not_written_down_is_told(operation, monkeypatch):
    async def cost(_):
        return 7

    walk = round_trips.test_an_operation_waits_no_more_often_than_this
    await walk(cost, operation("tag_peeled_article"))
    monkeypatch.delitem(hooks.COSTS, "tag_peeled_article")
    told = await failure(walk(cost, operation("tag_peeled_article")))
    assert f"PUT {OF_TAG} (tag_peeled_article) waits 7 times" in told
    assert f'{FILE} can say COSTS = {{"tag_peeled_article": 7}}' in told


async def test_what_may_be_skipped_is_told_under_every_failure(sampler, operation, current_tag):
    told = await failure(
        versions.test_of_many_changes_of_one_version_exactly_one_wins(
            sampler, current_tag, operation("tag_peeled_article")
        )
    )
    assert f"PUT {OF_TAG} (tag_peeled_article) answered" in told
    section = advice(operation("tag_peeled_article"), "test_of_many_changes_of_one_version")
    assert f'{FILE} can say SKIPS = {{"tag_peeled_article": {{"test_of_many_changes' in section


# A hook that is there.


@pytest.mark.parametrize("name", ["RULES", "RULES_OUTSIDE_DEV", "SAMPLES", "BEFORE", "COSTS"])
def test_a_hook_about_no_operation_is_found(walk, monkeypatch, name):
    monkeypatch.setattr(hooks, name, {"no_such_operation": "x"}, raising=False)
    guards = {
        "RULES": authorization.test_each_rule_has_its_operation,
        "RULES_OUTSIDE_DEV": authorization.test_each_rule_has_its_operation,
        "COSTS": round_trips.test_each_cost_has_its_operation,
    }
    with pytest.raises(AssertionError, match=f"{name} names no operation: 'no_such_operation'"):
        guards.get(name, rules.test_each_hook_is_about_something_that_is_there)(walk)


def test_a_skip_of_no_operation_is_found(walk, monkeypatch):
    monkeypatch.setattr(hooks, "SKIPS", {"create_peeling": "another slice's"})
    with pytest.raises(AssertionError, match="SKIPS names no operation: 'create_peeling'"):
        rules.test_each_hook_is_about_something_that_is_there(walk)


def test_a_key_of_no_path_is_found(walk, monkeypatch):
    monkeypatch.setitem(hooks.KEYS, "nick", "user.nick")
    with pytest.raises(AssertionError, match=f"{FILE}: KEYS names no parameter of a path: 'nick'"):
        rules.test_each_hook_is_about_something_that_is_there(walk)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ("", "gives no reason"),
        (" ", "gives no reason"),
        (None, "gives no reason"),
        ({}, "gives no reason"),
        ({"contract": ""}, "gives no reason"),
        ({"contracts": "why"}, "names no walk: 'contracts'"),
        ({"test_no_such": "why"}, "names no walk: 'test_no_such'"),
    ],
)
def test_a_skip_needs_a_reason_and_a_walk(walk, monkeypatch, told, wrong):
    monkeypatch.setitem(hooks.SKIPS, "create_peeled_tag", told)
    with pytest.raises(AssertionError, match=f"{FILE}: SKIPS of 'create_peeled_tag' {wrong}"):
        rules.test_each_skip_has_its_reason(walk)


@pytest.mark.parametrize(
    ("told", "is_skipped"),
    [
        ("why", True),
        ({"boundary": "why"}, True),
        ({"test_a_valid_request_succeeds": "why"}, True),
        ({"contract": "why"}, False),
        (None, False),
    ],
)
def test_a_skip_is_reported_with_its_reason(operation, monkeypatch, told, is_skipped):
    monkeypatch.setitem(hooks.SKIPS, "create_peeled_tag", told)
    marks = marks_of(operation("create_peeled_tag"), boundary.test_a_valid_request_succeeds)
    reasons = [mark.kwargs["reason"] for mark in marks]
    assert reasons == (["POST /peeled_tags (create_peeled_tag): why"] if is_skipped else [])


async def test_a_key_can_be_whatever_a_callable_gives(app, admin, operation, monkeypatch):
    async def tag(caller):
        return (await caller.post("/peeled_tags", json={"name": "soups"})).json()["id"]

    monkeypatch.setitem(hooks.KEYS, "peeled_tag_id", tag)
    monkeypatch.setitem(hooks.KEYS, "peeled_slug", lambda caller: "a/b")
    url = await Sampler(app, admin).url(operation("tag_peeled_article"))
    assert url == "/peeled_articles/a%2Fb/peeled_tags/1"


@pytest.mark.parametrize(
    "sample",
    [
        [{"heading": "Soup"}],
        Sample(json=[{"heading": "Soup"}]),
        lambda caller, number: [{"heading": "Soup"}],
    ],
)
async def test_a_sample_can_be_a_list(sampler, operation, monkeypatch, sample):
    monkeypatch.setitem(hooks.SAMPLES, "add_peeled_sections", sample)
    answer = await sampler.succeed(operation("add_peeled_sections"))
    assert [row["heading"] for row in answer.json()] == ["Soup"]


async def test_a_rule_can_name_a_further_role(
    app, client, cast, sql, fake_http, operation, monkeypatch
):
    rule = await sql.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'ck_users_role'"
    )
    await sql.execute("ALTER TABLE users DROP CONSTRAINT ck_users_role")
    try:
        outcomes = {"like": "signed_in"}
        monkeypatch.setitem(hooks.RULES, "list_peeled_tags", outcomes | {"accountant": 2})
        await authorization.obeys(app, client, cast, operation("list_peeled_tags"), "RULES")
        monkeypatch.setitem(hooks.RULES, "list_peeled_tags", outcomes | {"accountant": 403})
        told = await failure(
            authorization.obeys(app, client, cast, operation("list_peeled_tags"), "RULES")
        )
        assert "accountant: expected 403, got 200" in told
    finally:
        await sql.execute("DELETE FROM users WHERE role = 'accountant'")
        await sql.execute(f"ALTER TABLE users ADD CONSTRAINT ck_users_role {rule}")


# Bodies.


def test_the_fields_of_envelopes_and_lists_are_walked(operation):
    fields = {each.path for each in operation("create_peeled_article").fields}
    assert fields == {
        ("article",),
        ("article", "title"),
        ("article", "seo"),
        ("article", "seo", "summary"),
    }
    assert [each.path for each in operation("add_peeled_sections").fields] == [
        (0, "heading"),
        (0, "text"),
    ]
    places = [each.path for each in operation("create_peeled_article").places]
    assert places == [(), ("article",), ("article", "seo")]


async def test_wrong_documents_stand_in_place_of_inner_objects(sampler, operation):
    request = await sampler.prepare(operation("create_peeled_article"))
    request = replace(request, body={"article": {"title": "a", "seo": {"summary": "b"}}})
    wrong = list(contract.wrong_documents(request))
    assert b"[]" in wrong
    assert b'{"article": []}' in wrong
    assert b'{"article": {"title": "a", "seo": []}}' in wrong
    request = await sampler.prepare(operation("add_peeled_sections"))
    assert b"[[]]" in list(contract.wrong_documents(request))
    assert b"[]" not in list(contract.wrong_documents(request))


NODE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "seo": {"anyOf": [{"$ref": "#/components/schemas/Seo"}, {"type": "null"}]},
        "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}},
        "kind": {"const": "node"},
    },
    "required": ["name"],
}
SEO = {"type": "object", "properties": {"text": {"type": "string", "minLength": 20}}}
DOCUMENT = {"components": {"schemas": {"Node": NODE, "Seo": SEO}}}


def test_a_nested_value_is_made_by_its_schema():
    made = Schemas(DOCUMENT).value({"$ref": "#/components/schemas/Node"})
    assert len(set(made["tags"])) == 2
    assert len(made["seo"]["text"]) == 20
    assert (made["parts"], made["kind"]) == ([], "node")
    many = Schemas(DOCUMENT).value({"type": "array", "items": NODE})
    assert [each.keys() for each in many] == [NODE["properties"].keys()]


def test_the_fields_of_a_tree_end():
    paths = [each.path for each in Schemas(DOCUMENT).fields(NODE)]
    assert paths == [
        ("name",),
        ("tags",),
        ("tags", 0),
        ("seo",),
        ("parts",),
        ("kind",),
        ("seo", "text"),
    ]


def test_the_elements_of_lists_and_dicts_are_fields_however_deep():
    text, lists = {"type": "string"}, {"type": "array"}
    table = lists | {"items": lists | {"items": text}}
    every = {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Seo"}}
    words = {"type": "object", "additionalProperties": text | {"maxLength": 3}}
    schema = {"type": "object", "properties": {"table": table, "every": every, "words": words}}
    schemas = Schemas(DOCUMENT)
    assert [each.path for each in schemas.fields(schema)] == [
        *(("table",), ("table", 0), ("table", 0, 0)),
        *(("every",), ("words",), ("words", "sample"), ("every", "sample", "text")),
    ]
    made = schemas.value(schema)
    assert all(dig(made, each.path) for each in schemas.fields(schema))
    assert [each.path for each in schemas.places(schema)] == [(), ("every", "sample")]
    assert [each.path for each in schemas.fields(table)] == [(0,), (0, 0)]


def test_a_list_of_such_lists_ends():
    json = {"type": "array", "items": {"$ref": "#/components/schemas/Json"}}
    schemas = Schemas({"components": {"schemas": {"Json": json}}})
    assert [each.path for each in schemas.fields(json)] == [(0,)]


def test_a_document_is_changed_at_a_place():
    body = {"a": [{"b": 1}]}
    assert put(body, ("a", 0, "b"), 2) == {"a": [{"b": 2}]}
    assert put(None, ("a", 0, "b"), 2) == {"a": [{"b": 2}]}
    assert drop(body, ("a", 0, "b")) == {"a": [{}]}
    assert written(body, ("a", 0), "NaN") == b'{"a": [NaN]}'
    assert body == {"a": [{"b": 1}]}


def test_what_each_caller_got_is_a_line_for_each_operation_by_its_path():
    seen = {
        "POST /b (make)": {"nobody": 401, "accountant": 201},
        "GET /b (list)": {"nobody": 200},
        "GET /a (look) outside dev": {"nobody": 401},
    }
    assert [*matrix(seen)] == [
        "operation                  nobody  accountant",
        "GET /a (look) outside dev  401     -",
        "GET /b (list)              200     -",
        "POST /b (make)             401     201",
    ]


async def test_a_further_role_tries_every_operation(app, client, cast, operation):
    cast.roles.append("gardener")
    cast.headers["gardener"] = client.headers  # who is nobody
    told = await failure(
        authorization.obeys(app, client, cast, operation("list_peelings"), "RULES")
    )
    assert "gardener: expected success, got 401" in told
