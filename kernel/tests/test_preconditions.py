"""Tags identify answers; If-Match compares the version of the row that the URL names."""

import asyncio
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, Path, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import APIKeyCookie, APIKeyHeader, APIKeyQuery, HTTPBasic, HTTPBearer
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    delete,
    text,
    update,
)
from sqlmodel import col, select

from features.users.models import User, UserPublic, UserSummary
from kernel import (
    CredentialScheme,
    CurrentUser,
    Dto,
    Id,
    Key,
    NotFound,
    Principal,
    Public,
    Reader,
    Router,
    Session,
    Viewer,
    open_session,
    resources_of,
)
from kernel.data.named_rows import NamedRow
from kernel.http.answer_headers import AnswerHeaders
from kernel.http.docs import credential_headers
from kernel.http.preconditions import row_place
from kernel.identity.callers import Credentials
from kernel.tests.articles.models import (
    PeeledCountry,
    PeeledCountryFields,
    PeeledCountryPublic,
    PeeledSection,
)
from kernel.tests.peelings.models import Peeling, PeelingPublic, PeelingUpdate

# A team's middleware, schemes and paths give other headers and addresses.
as_shipped = pytest.mark.house
router = Router(prefix="/ways", tags=["ways"])
PEELINGS = "/ways/peelings/{peeling_id}"
Slug = Annotated[str, Path(max_length=120)]
called = []


class Crate(Public):
    """A row with rows of another table in it, and a count of them."""

    title: str
    sections: list[str]
    count: int


class Nothing(Dto):
    text: str = "done"


USER = select(User).where(col(User.id) == bindparam("id"))
BY_ID = select(Peeling).where(col(Peeling.id) == bindparam("id"))
RENAME = update(Peeling).where(col(Peeling.id) == bindparam("key")).values(title=bindparam("new"))
DESCRIBE = RENAME.values(description=bindparam("description"), title="new")
RENAMED = RENAME.returning(*Peeling.__table__.c)


async def shown(session, peeling_id):
    found = await session.first(PeelingPublic, BY_ID, id=peeling_id)
    if found is None:
        raise NotFound("peeling", peeling_id)
    return found


async def by_orm(session, peeling_id):
    peeling = await session.get(Peeling, peeling_id)
    if peeling is None:
        raise NotFound("peeling", peeling_id)
    peeling.title = "new"
    await session.flush()


async def by_orm_unflushed(session, peeling_id):
    (await session.get(Peeling, peeling_id)).title = "new"


async def by_bulk(session, peeling_id):
    await session.exec(update(Peeling).where(col(Peeling.id) == peeling_id).values(title="new"))


async def by_bulk_of_loaded(session, peeling_id):
    peeling = await session.get(Peeling, peeling_id)
    await session.exec(update(Peeling).where(col(Peeling.id) == peeling_id).values(title="newer"))
    peeling.title = "new"
    await session.flush()


async def by_key_of_bulk(session, peeling_id):
    version = (await session.get(Peeling, peeling_id)).version
    values = {"id": peeling_id, "version": version, "title": "new"}
    await session.exec(update(Peeling), params=[values])


async def by_fetch(session, peeling_id):
    await session.fetch(RENAMED, key=peeling_id, new="new")


async def by_fetch_of_loaded(session, peeling_id):
    peeling = await session.get(Peeling, peeling_id)
    await session.fetch(RENAMED, key=peeling_id, new="newer")
    peeling.title = "new"
    await session.flush()


async def by_connection(session, peeling_id):
    await (await session.connection()).execute(RENAME, {"key": peeling_id, "new": "new"})


async def by_sql(session, peeling_id):
    sql = text("UPDATE peelings SET title = 'new' WHERE id = :id")
    await session.exec(sql, params={"id": peeling_id})


async def by_sql_of_a_schema(session, peeling_id):
    sql = text("UPDATE \"public\".peelings SET title = 'new' WHERE id = :id")
    await session.exec(sql, params={"id": peeling_id})
    await session.get(Peeling, peeling_id, populate_existing=True)


async def by_driver_sql(session, peeling_id):
    sql = f"UPDATE peelings SET title = 'new' WHERE id = {peeling_id}"
    await (await session.connection()).exec_driver_sql(sql)


async def by_driver(session, peeling_id):
    async with session.driver_connection() as connection:
        await connection.execute("UPDATE peelings SET title = 'new' WHERE id = $1", peeling_id)


async def by_driver_returning(session, peeling_id):
    async with session.driver_connection() as connection:
        sql = "UPDATE peelings SET title = 'new' WHERE id = $1 RETURNING id"
        await connection.fetchval(sql, peeling_id)


async def in_a_savepoint(session, peeling_id):
    async with session.begin_nested():
        await by_bulk(session, peeling_id)


async def loaded_in_a_savepoint(session, peeling_id):
    async with session.begin_nested():
        await by_orm(session, peeling_id)


async def behind_a_savepoint(session, peeling_id):
    savepoint = await session.begin_nested()
    await by_orm(session, peeling_id)
    await savepoint.rollback()
    await by_bulk(session, peeling_id)


async def behind_a_rollback(session, peeling_id):
    await by_bulk(session, peeling_id)
    await session.rollback()
    await by_bulk(session, peeling_id)


async def twice(session, peeling_id):
    await by_orm(session, peeling_id)
    await by_bulk(session, peeling_id)
    await by_sql(session, peeling_id)


async def with_its_own_version(session, peeling_id):
    peeling = await session.get(Peeling, peeling_id)
    peeling.version, peeling.title = 77, "new"
    await session.flush()


async def of_many(session, peeling_id):
    await session.exec(update(Peeling).values(title="new"))


async def by_upsert(session, peeling_id):
    sql = text(
        "INSERT INTO peelings (id, title, owner_id) OVERRIDING SYSTEM VALUE"
        " SELECT id, title, owner_id FROM peelings WHERE id = :id"
        " ON CONFLICT (id) DO UPDATE SET title = 'new'"
    )
    await session.exec(sql, params={"id": peeling_id})


async def by_touch_and_bulk(session, peeling_id):
    await session.touch(Peeling, peeling_id)
    await by_bulk(session, peeling_id)


WAYS = {
    way.__name__: way
    for way in (
        *(by_orm, by_orm_unflushed, by_bulk, by_bulk_of_loaded, by_key_of_bulk, by_fetch),
        *(by_fetch_of_loaded, by_connection, by_sql, by_driver_sql, by_driver, by_upsert),
        by_sql_of_a_schema,
        *(
            loaded_in_a_savepoint,
            by_driver_returning,
            in_a_savepoint,
            behind_a_savepoint,
            behind_a_rollback,
            twice,
        ),
        *(with_its_own_version, of_many, by_touch_and_bulk),
    )
}


async def change(way: str, peeling_id: int, session: Session) -> Nothing:
    await WAYS[way](session, peeling_id)
    return Nothing()


for method in ("POST", "PATCH"):

    @router.api_route("/{way}/peelings/{peeling_id}", methods=[method], name=f"change_{method}")
    async def change_named(way: str, peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
        return await change(way, peeling_id, session)

    @router.api_route("/{way}/basket/{peeling_id}", methods=[method], name=f"basket_{method}")
    async def change_elsewhere(
        way: str, peeling_id: Id, me: CurrentUser, session: Session
    ) -> PeelingPublic:
        await shown(session, peeling_id)  # the path does not say which table it is
        await WAYS[way](session, peeling_id)
        return await shown(session, peeling_id)


@router.patch("/mine/{way}")
async def change_mine(way: str, me: CurrentUser, session: Session) -> PeelingPublic:
    """The row is named by nothing in the path."""
    await WAYS[way](session, 1)
    return await shown(session, 1)


@router.patch("/mine-with/{table}")
async def change_mine_with_others(table: str, me: CurrentUser, session: Session) -> PeelingPublic:
    """A row of another table has the same id, and is changed or seen first."""
    section = await session.get(PeeledSection, 1)
    section.heading = "new" if table == "peeled_sections" else section.heading
    await session.flush()
    await by_orm(session, 1)
    return await shown(session, 1)


@router.delete("/peelings/{peeling_id}", status_code=204)
async def delete_by_bulk(peeling_id: Id, me: CurrentUser, session: Session) -> None:
    await session.exec(delete(Peeling).where(col(Peeling.id) == peeling_id))


@router.post("/peelings/{peeling_id}/others")
async def change_others(peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
    """An action that changes only rows of another table, one of them with the same id."""
    sections = await session.exec(select(PeeledSection))
    for section in sections:
        section.heading = "new"
    await session.flush()
    return Nothing()


@router.post("/peelings/{peeling_id}/nothing")
async def change_nothing(peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
    return Nothing()


@router.post("/peelings/{peeling_id}/failing")
async def fail(peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
    await by_bulk(session, peeling_id)
    raise NotFound("nothing", 0)


@router.post("/peelings/{peeling_id}/peeled_sections", status_code=201)
async def add_section(peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
    """Only a child is made; the parent counts it."""
    await shown(session, peeling_id)
    session.add(PeeledSection(heading="more", peeled_article_id=1))
    await session.touch(Peeling, peeling_id)
    return Nothing()


@router.post("/peelings/{peeling_id}/touch/{kind}")
async def touch(peeling_id: Id, kind: str, me: CurrentUser, session: Session) -> PeelingPublic:
    if kind == "row":
        peeling = await session.get(Peeling, peeling_id)
        await session.touch(peeling)
        await session.touch(peeling)
        return PeelingPublic.model_validate(peeling)
    if kind == "known":
        peeling = await session.get(Peeling, peeling_id)
        peeling.title = "touched"
        await session.touch(Peeling, peeling_id)
        return PeelingPublic.model_validate(peeling)
    await session.touch(Peeling, peeling_id)
    await session.touch(Peeling, peeling_id)
    return await shown(session, peeling_id)


@router.post("")
async def create(me: CurrentUser, session: Session) -> PeelingPublic:
    return await session.insert(Peeling, PeelingPublic, title="made", owner_id=me.id)


@router.get("/crate/{peeling_id}")
async def get_crate(peeling_id: Id, me: CurrentUser, reader: Reader) -> Crate:
    peeling = await shown(reader, peeling_id)
    sections = [row["heading"] for row in await reader.fetch(select(PeeledSection))]
    kept = peeling.model_dump(include={"id", "created_at", "updated_at", "version", "title"})
    return Crate(**kept, sections=sections, count=len(sections))


@router.get("/dict/{peeling_id}", response_model=PeelingPublic)
async def get_dict(peeling_id: Id, me: CurrentUser, reader: Reader):
    return (await shown(reader, peeling_id)).model_dump()


@router.get("/sync/{peeling_id}")
def get_sync(peeling_id: Id, response: Response, tasks: BackgroundTasks) -> PeelingPublic:
    response.headers["X-Own"] = "own"
    response.set_cookie("own", "cookie")
    tasks.add_task(called.append, "called")
    row = {"id": peeling_id, "created_at": "2030-01-01T00:00:00Z", "version": 7, "title": "x"}
    return PeelingPublic(**row, updated_at="2030-01-01T00:00:00Z", owner_id=1, description=None)


@router.get("/own-tag")
async def get_own_tag(response: Response) -> Nothing:
    response.headers["ETag"] = 'W/"own"'
    return Nothing()


@router.get("/own-response")
async def get_own_response() -> JSONResponse:
    return JSONResponse([1, 2], headers={"Vary": "Accept", "Cache-Control": "max-age=60"})


@router.get("/stream")
async def get_stream() -> StreamingResponse:
    async def parts():
        yield b"{}"

    return StreamingResponse(parts(), media_type="application/json")


@router.get("/maybe")
async def get_maybe() -> PeelingPublic | None:
    return None


@router.get("/viewer")
async def get_viewer(me: Viewer) -> Nothing:
    return Nothing(text=str(me and me.id))


@pytest.fixture
async def caller(mount, alice, sql):
    async with mount(router) as caller:
        caller.headers.update(alice.headers)
        for title in ("one", "two"):
            owner = alice.user_id
            await sql.execute(
                "INSERT INTO peelings (title, owner_id) VALUES ($1, $2)", title, owner
            )
        await sql.execute(
            "INSERT INTO peeled_articles (slug, title, state, owner_id)"
            " VALUES ('a', 'A', 'draft', $1)",
            owner,
        )
        for number in range(2):
            await sql.execute(
                "INSERT INTO peeled_sections (heading, peeled_article_id) VALUES ($1, 1)",
                f"{number}",
            )
        await sql.execute("UPDATE peelings SET title = 'at two'")
        yield caller


async def reset(sql):
    """Another title, which nobody counts."""
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        await sql.execute("UPDATE peelings SET title = 'old'")


async def titles(sql):
    return await sql.fetchval("SELECT title FROM peelings WHERE id = 1")


# Writes, whatever changes the row.


@pytest.mark.parametrize("place", ["peelings", "basket"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_version_is_compared_whatever_changes_the_row(caller, sql, way, place):
    for method in ("POST", "PATCH"):
        url = f"/ways/{way}/{place}/1"
        version = await sql.fetchval("SELECT version FROM peelings WHERE id = 1")
        await reset(sql)
        for tags in (version - 1, version + 1):
            answer = await caller.request(method, url, headers={"If-Match": f'"{tags}"'})
            assert (answer.status_code, await titles(sql)) == (412, "old"), (method, answer.text)
        for tag in ('"{}"', 'W/"{}-00"', '"0", "{}-abc"', "*"):
            version = await sql.fetchval("SELECT version FROM peelings WHERE id = 1")
            await reset(sql)
            headers = {"If-Match": tag.format(version)}
            answer = await caller.request(method, url, headers=headers)
            assert (answer.status_code, await titles(sql)) == (200, "new"), (method, answer.text)
            assert await sql.fetchval("SELECT version FROM peelings WHERE id = 1") > version


@pytest.mark.parametrize(
    "way",
    ["by_orm", "by_bulk", "by_fetch", "by_orm_unflushed", "of_many", "loaded_in_a_savepoint"],
)
async def test_a_row_that_no_key_names_is_the_one_that_is_answered(caller, sql, way):
    for version in (1, 3):
        answer = await caller.patch(f"/ways/mine/{way}", headers={"If-Match": f'"{version}"'})
        assert (answer.status_code, await titles(sql)) == (412, "at two")
    for version in (2, 3):
        answer = await caller.patch(f"/ways/mine/{way}", headers={"If-Match": f'"{version}"'})
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == version + 1
        await reset(sql)


@pytest.mark.parametrize("table", ["peeled_sections", "none"])
async def test_of_two_rows_with_the_answered_id_the_answered_one_counts(caller, sql, table):
    await sql.execute(
        "UPDATE peeled_sections SET heading = 'x'; UPDATE peeled_sections SET heading = 'y'"
    )
    await sql.execute("UPDATE peelings SET title = 'x'; UPDATE peelings SET title = 'y'")
    for version, status in ((3, 412), (5, 412), (4, 200)):  # the section's is 3
        answer = await caller.patch(
            f"/ways/mine-with/{table}", headers={"If-Match": f'"{version}"'}
        )
        assert answer.status_code == status, answer.text


async def test_a_row_that_is_deleted_in_bulk_has_its_version_compared(caller, sql):
    assert (
        await caller.delete(PEELINGS.format(peeling_id=1), headers={"If-Match": '"1"'})
    ).status_code == 412
    assert (
        await caller.delete(PEELINGS.format(peeling_id=1), headers={"If-Match": '"2"'})
    ).status_code == 204
    # It is not there any more, so no tag is its own (RFC 9110 §13.1.1), not even any.
    for tag in ('"2"', "*"):
        answer = await caller.delete(PEELINGS.format(peeling_id=1), headers={"If-Match": tag})
        assert answer.status_code == 412


@pytest.mark.parametrize("action", ["others", "nothing"])
async def test_an_action_compares_the_row_that_its_path_names(caller, sql, action):
    """Not the section, the article or the caller's account of the same id, of version 1."""
    url = f"/ways/peelings/1/{action}"
    for version, status in ((1, 412), (3, 412), (2, 200)):
        answer = await caller.post(url, headers={"If-Match": f'"{version}"'})
        assert answer.status_code == status, answer.text
    changed = await sql.fetchval("SELECT count(*) FROM peeled_sections WHERE heading = 'new'")
    assert changed == (2 if action == "others" else 0)


async def test_what_fails_anyway_fails_for_its_own_reason(caller, sql):
    for tag in ('"1"', '"2"', "*"):
        answer = await caller.post("/ways/peelings/1/failing", headers={"If-Match": tag})
        assert answer.status_code == 404
    assert await titles(sql) == "at two"


async def test_a_post_that_names_no_row_takes_any_tag_and_no_other(caller, sql):
    before = await sql.fetchval("SELECT count(*) FROM peelings")
    for tag in ('"1"', '"2"', '"1-00"'):
        answer = await caller.post("/ways", headers={"If-Match": tag})
        assert (answer.status_code, "names no row" in answer.json()["message"]) == (412, True)
    assert await sql.fetchval("SELECT count(*) FROM peelings") == before
    assert (await caller.post("/ways", headers={"If-Match": "*"})).status_code == 200
    assert await sql.fetchval("SELECT count(*) FROM peelings") == before + 1


async def test_all_lines_of_a_header_count(caller):
    lines = [("If-Match", '"99"'), ("If-Match", '"2"')]
    assert (await caller.post("/ways/by_orm/peelings/1", headers=lines)).status_code == 200
    tag = (await caller.get("/ways/crate/1")).headers["etag"]
    lines = [("If-None-Match", '"99"'), ("If-None-Match", tag)]
    assert (await caller.get("/ways/crate/1", headers=lines)).status_code == 304


@pytest.mark.parametrize("place", ["peelings", "basket"])
async def test_a_write_may_say_which_version_it_is_not_for(caller, sql, place):
    url = f"/ways/by_orm/{place}/1"
    for tag in ('"2"', 'W/"2-00"', '"1", "2"', "*"):
        answer = await caller.post(url, headers={"If-None-Match": tag})
        assert (answer.status_code, await titles(sql)) == (412, "at two"), tag
    answer = await caller.post(url, headers={"If-None-Match": '"1"'})
    assert (answer.status_code, await titles(sql)) == (200, "new")


async def test_who_wants_to_make_a_row_changes_none(caller, mount, sql):
    puts = Router(prefix="/peeled_countries")

    @puts.put("/{code}")
    async def put_peeled_country(
        code: Key, data: PeeledCountryFields, session: Session
    ) -> PeeledCountryPublic:
        country = await session.get(PeeledCountry, code) or PeeledCountry(id=code)
        country.name = data.name
        session.add(country)
        await session.flush()
        return PeeledCountryPublic.model_validate(country)

    absent = {"If-None-Match": "*"}
    async with mount(puts) as client:
        for name, status in (("first", 200), ("second", 412)):
            answer = await client.put("/peeled_countries/xy", json={"name": name}, headers=absent)
            assert answer.status_code == status, answer.text
        there = {"If-Match": "*"}
        assert (
            await client.put("/peeled_countries/xz", json={"name": "x"}, headers=there)
        ).is_client_error
    names = await sql.fetch("SELECT id, name FROM peeled_countries ORDER BY id")
    assert [tuple(row) for row in names] == [("xy", "first")]


@pytest.mark.parametrize(
    "tag", ["2", '"2', '2"', "W/2", '"02"', '"2-"2', '"-2"', "''", "", '"2-xyz"', '"two"']
)
async def test_a_malformed_tag_in_if_match_is_a_412(caller, tag):
    answer = await caller.post("/ways/by_orm/peelings/1", headers={"If-Match": tag})
    assert answer.status_code == 412


@pytest.mark.parametrize("way", ["by_orm", "by_bulk", "by_fetch", "by_sql", "by_driver"])
async def test_of_many_changes_of_one_version_one_wins(caller, sql, way):
    for round_ in range(2):
        await reset(sql)
        tag = {"If-Match": f'"{2 + round_}"'}
        url = f"/ways/{way}/peelings/1"
        answers = await asyncio.gather(*[caller.patch(url, headers=tag) for _ in range(25)])
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 24
    assert await sql.fetchval("SELECT version FROM peelings WHERE id = 1") == 4


# Children and parents.


async def test_a_parent_that_is_touched_has_another_tag_and_another_version(caller, sql):
    tag = (await caller.get("/ways/crate/1")).headers["etag"]
    add = "/ways/peelings/1/peeled_sections"
    assert (await caller.post(add, headers={"If-Match": tag})).status_code == 201
    assert (await caller.post(add, headers={"If-Match": tag})).status_code == 412
    assert await sql.fetchval("SELECT count(*) FROM peeled_sections") == 3
    crate = await caller.get("/ways/crate/1", headers={"If-None-Match": tag})
    assert (crate.status_code, crate.json()["version"], crate.json()["count"]) == (200, 3, 3)


@pytest.mark.parametrize(("kind", "versions"), [("row", 2), ("known", 1), ("key", 2)])
async def test_a_touch_increments_the_version(caller, sql, kind, versions):
    before = await sql.fetchrow("SELECT * FROM peelings WHERE id = 1")
    answer = await caller.post(f"/ways/peelings/1/touch/{kind}", headers={"If-Match": '"1"'})
    assert answer.status_code == 412
    answer = await caller.post(f"/ways/peelings/1/touch/{kind}", headers={"If-Match": '"2"'})
    after = await sql.fetchrow("SELECT * FROM peelings WHERE id = 1")
    assert answer.json()["version"] == after["version"] == before["version"] + versions
    assert after["updated_at"] > before["updated_at"]


async def test_a_row_that_is_not_there_cannot_be_touched(caller):
    answer = await caller.post("/ways/peelings/99/touch/key")
    assert (answer.status_code, answer.json()["message"]) == (404, "peeling 99 not found")


# Tags of answers.


async def test_a_tag_is_of_all_that_is_in_the_answer(caller, sql):
    tags = set()
    changes = [
        "SELECT 1",
        "UPDATE peeled_sections SET heading = 'other' WHERE id = 1",
        "DELETE FROM peeled_sections WHERE id = 2",
        "UPDATE peelings SET title = 'other' WHERE id = 1",
        "UPDATE peelings SET description = 'not shown' WHERE id = 1",
    ]
    for change in changes:
        await sql.execute(change)
        known = ", ".join(tags)
        answer = await caller.get("/ways/crate/1", headers={"If-None-Match": known})
        assert answer.status_code == 200
        version = answer.json()["version"]
        assert answer.headers["etag"].startswith(f'"{version}-')
        tags.add(answer.headers["etag"])
        again = await caller.get("/ways/crate/1", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert len(tags) == len(changes)


async def test_two_callers_have_two_tags(caller, bob):
    hers, his = (await caller.get("/users/me")).headers["etag"], None
    caller.headers.update(bob.headers)
    answer = await caller.get("/users/me", headers={"If-None-Match": hers})
    his = answer.headers["etag"]
    assert (answer.status_code, answer.json()["id"], his == hers) == (200, bob.user_id, False)


async def test_a_list_has_the_tag_of_its_bytes(caller, sql):
    first = await caller.get("/peelings")
    tag = first.headers["etag"]
    assert tag.strip('"').isalnum()
    known = await caller.get("/peelings", headers={"If-None-Match": tag})
    assert (known.status_code, known.headers["etag"]) == (304, tag)
    await sql.execute("UPDATE peelings SET description = 'other' WHERE id = 2")
    assert (await caller.get("/peelings", headers={"If-None-Match": tag})).status_code == 200


async def test_a_row_has_its_version_in_front_however_the_handler_gives_it(caller):
    for path, version in (("dict/1", 2), ("sync/1", 7), ("crate/1", 2)):
        answer = await caller.get(f"/ways/{path}")
        assert answer.headers["etag"].startswith(f'"{version}-'), path


async def test_not_modified_says_all_but_the_content(caller):
    called.clear()
    whole = await caller.get("/ways/sync/1")
    answer = await caller.get("/ways/sync/1", headers={"If-None-Match": whole.headers["etag"]})
    assert answer.status_code == 304
    own = {"x-request-id", "server-timing"}
    content = {"content-length", "content-type"}
    assert {n: v for n, v in answer.headers.items() if n not in own} == {
        n: v for n, v in whole.headers.items() if n not in own | content
    }
    assert {"x-own", "set-cookie", "etag", "cache-control", "vary"} <= answer.headers.keys()
    assert called == ["called", "called"]


async def test_a_handlers_own_tag_stays(caller):
    answer = await caller.get("/ways/own-tag")
    assert answer.headers.get_list("etag") == ['W/"own"']
    for tag in ('"own"', 'W/"own"', "*"):
        known = await caller.get("/ways/own-tag", headers={"If-None-Match": tag})
        assert (known.status_code, known.headers["etag"]) == (304, 'W/"own"')


async def test_what_has_no_json_body_has_no_tag(caller):
    for path in (
        "/ways/stream",
        "/peeled_articles/a/text",
        "/docs",
        "/ways/missing",
        "/peelings/export",
    ):
        assert "etag" not in (await caller.get(path)).headers, path
    assert "etag" in (await caller.get("/ways/maybe")).headers


async def test_head_has_the_headers_of_get(caller):
    for path in ("/ways/crate/1", "/peelings", "/ways/own-response"):
        get, head = await caller.get(path), await caller.head(path)
        assert head.headers["etag"] == get.headers["etag"]
        known = await caller.head(path, headers={"If-None-Match": get.headers["etag"]})
        assert known.status_code == 304


async def test_a_write_answers_with_the_tag_that_a_read_has(caller):
    answer = await caller.patch("/peelings/1", json={"title": "x"})
    assert answer.headers["etag"] == (await caller.get("/peelings/1")).headers["etag"]
    assert answer.headers["etag"].startswith('"3-')


# What answers say of themselves.

VARY = "Authorization, X-API-Key"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/users/me", 200),
        ("HEAD", "/users/me", 200),
        ("GET", "/peelings", 200),
        ("GET", "/peelings/99", 404),
        ("GET", "/peelings?limit=0", 422),
        ("POST", "/peelings", 422),
        ("PATCH", "/ways/by_orm/peelings/1", 200),
        ("DELETE", "/peelings/2", 204),
        ("GET", "/peelings/export", 200),
        ("GET", "/ways/viewer", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/ways/viewer", 405),
        ("GET", "/ways/own-tag", 200),
        ("POST", "/ways/peelings/1/failing", 404),
    ],
)
@as_shipped
async def test_an_answer_to_a_caller_says_whom_it_is_for(caller, method, path, status):
    answer = await caller.request(method, path)
    headers = answer.headers
    assert answer.status_code == status
    assert headers.get_list("cache-control") == ["private, no-cache"]
    assert headers.get_list("vary") == [VARY]
    assert headers.get_list("x-content-type-options") == ["nosniff"]


@pytest.mark.parametrize("path", ["/users/me", "/peelings", "/ways/viewer", "/peelings/export"])
@as_shipped
async def test_an_answer_to_a_stranger_says_so_where_a_caller_is_asked_for(client, mount, path):
    async with mount(router) as stranger:
        answer = await stranger.get(path)
    assert answer.headers["vary"] == VARY
    # What a stranger may see, everybody may.
    is_open = path == "/ways/viewer"
    assert answer.headers.get("cache-control") == (None if is_open else "private, no-cache")


@pytest.mark.parametrize("path", ["/livez", "/docs", "/openapi.json", "/nowhere", "/docs/assets/x"])
@as_shipped
async def test_what_is_the_same_for_everybody_says_no_more_than_its_type(client, path):
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "cache-control" not in headers
    assert "vary" not in headers


@as_shipped
async def test_not_modified_says_whom_it_is_for(caller):
    tag = (await caller.get("/peelings")).headers["etag"]
    answer = await caller.get("/peelings", headers={"If-None-Match": tag})
    assert answer.status_code == 304
    assert (answer.headers["cache-control"], answer.headers["vary"]) == ("private, no-cache", VARY)


@as_shipped
async def test_a_handlers_own_headers_stay_and_vary_by_the_credential_as_well(caller):
    headers = (await caller.get("/ways/own-response")).headers
    assert headers.get_list("cache-control") == ["max-age=60"]
    assert headers.get_list("vary") == [f"Accept, {VARY}"]


@as_shipped
async def test_a_secret_is_not_stored(caller, client, alice, password):
    form = {"username": alice.email, "password": password}
    for answer, status in (
        (await client.post("/auth/token", data=form), 200),
        (await client.post("/auth/token", data=form | {"password": "wrong"}), 401),
        (await caller.post("/keys", json={"name": "key"}), 201),
    ):
        assert answer.status_code == status
        assert answer.headers.get_list("cache-control") == ["no-store"]


async def test_a_replay_says_it_once(caller):
    key = {"Idempotency-Key": "a"}
    for replayed in (None, "true"):
        answer = await caller.post("/peelings", json={"title": "x"}, headers=key)
        assert answer.headers.get("idempotent-replayed") == replayed
        for name in ("cache-control", "vary", "x-content-type-options", "etag"):
            assert len(answer.headers.get_list(name)) == 1


async def test_a_refusal_before_any_route_says_whom_it_is_for(caller):
    answer = await caller.post("/peelings", content=b"x" * 2_000_000)
    assert (answer.status_code, answer.headers["cache-control"]) == (413, "private, no-cache")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("*", "*"),
        ("authorization", "authorization, X-API-Key"),
        ("Accept,  x-api-key ,", "Accept, x-api-key, Authorization"),
        ("", VARY),
    ],
)
def test_vary_is_a_list_of_names_without_doubles(own, expected):
    headers = AnswerHeaders(["Authorization", "X-API-Key"])
    scope = {"kernel.header_names": {b"authorization"}}
    answered = headers.of(scope, [(b"vary", own.encode()), (b"x-content-type-options", b"nosniff")])
    assert sorted(answered) == [
        (b"cache-control", b"private, no-cache"),
        (b"vary", expected.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]


def test_the_headers_of_credentials_are_read_off_their_schemes():
    async def nobody(*_):
        return None

    def scheme(security):
        return CredentialScheme(security, lambda _: (), nobody)

    schemes = [
        scheme(APIKeyCookie(name="session")),
        scheme(APIKeyHeader(name="X-Key", scheme_name="one")),
        scheme(HTTPBasic()),
        scheme(HTTPBearer()),
        scheme(APIKeyQuery(name="key", scheme_name="three")),
    ]
    assert credential_headers(schemes) == ["Cookie", "X-Key", "Authorization"]
    assert credential_headers([]) == []


class Release(Dto):
    """What has a version that is no row's."""

    version: str


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (UserPublic | PeelingPublic | None, ()),
        (UserPublic | UserSummary, ()),
        (UserSummary | UserPublic | None, ()),
        (UserPublic | Release, None),
        (UserPublic | list[PeelingPublic], None),
        (UserSummary | Nothing, None),
    ],
)
def test_an_answer_of_several_forms_is_about_a_row_if_all_versions_are_rows(model, place):
    assert row_place(model) == place


async def test_an_account_that_was_read_is_changed_in_this_version_only(sign_up, alice):
    admin = await sign_up("Admin", "admin")
    url = f"/users/{alice.user_id}"
    tag = (await admin.get(url)).headers["etag"]
    for status in (200, 412):
        answer = await admin.patch(url, json={"full_name": "New"}, headers={"If-Match": tag})
        assert answer.status_code == status
    summary = await (await sign_up("Bob")).get(url)
    assert summary.json() == {"id": alice.user_id, "full_name": "New"}
    assert "-" not in summary.headers["etag"]


# What must not be taken for the row that a URL names.


async def by_object(_, rows, credential):
    user = await rows.get(User, int(credential))
    return Principal(user.id, user.role)


async def by_dto(_, rows, credential):
    user = await rows.first(UserPublic, USER, id=int(credential))
    return Principal(user.id, user.role)


async def begin(session: Session) -> None:
    """A caller is looked up in the transaction if that has begun before."""
    await session.connection()


@router.patch("/{way}/somewhere/{key}", dependencies=[Depends(begin)])
async def change_somewhere(way: str, key: Id, me: CurrentUser, session: Session) -> Nothing:
    """Neither the path nor the answer says which table it is; the caller's account has this id."""
    await WAYS[way](session, key)
    return Nothing()


@router.patch("/unseen/{key}")
async def change_and_see(key: Id, me: CurrentUser, session: Session) -> Nothing:
    """What version the row had, nobody can tell any more."""
    await by_sql(session, key)
    await session.get(Peeling, key)
    await shown(session, key)
    return Nothing()


@router.post("/looking/at/{place}/{key}")
async def look(place: str, key: Id, me: CurrentUser, session: Session) -> Nothing:
    """Somebody else changes the row after the handler has seen it."""
    await session.get(Peeling, key)
    async with open_session() as other:
        await by_bulk(other, key)
    return Nothing()


@router.post("/beginning/anew/peelings/{peeling_id}")
async def begin_anew(peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
    """With the rollback the lock is gone, and somebody else is faster."""
    await by_bulk(session, peeling_id)
    await session.rollback()
    async with open_session() as other:
        await by_bulk(other, peeling_id)
    await by_bulk(session, peeling_id)
    return Nothing()


async def test_a_row_that_was_changed_behind_a_rollback_has_another_version(caller, sql):
    url = "/ways/beginning/anew/peelings/1"
    assert (await caller.post(url, headers={"If-Match": '"2"'})).status_code == 412
    assert await sql.fetchval("SELECT version FROM peelings WHERE id = 1") == 3  # the other's


@router.patch("/mine-looked-at")
async def look_at_mine(me: CurrentUser, session: Session) -> PeelingPublic:
    """No key names the row, and somebody else changes it after the handler has seen it."""
    found = await shown(session, 1)
    async with open_session() as other:
        await by_bulk(other, 1)
    return found


async def test_an_answered_row_that_is_only_looked_at_must_not_change_meanwhile(caller):
    for tag, status in (('"2"', 412), ("*", 200)):
        answer = await caller.patch("/ways/mine-looked-at", headers={"If-Match": tag})
        assert answer.status_code == status


async def test_a_version_that_nobody_knows_lets_no_tag_pass(caller, sql):
    for version in (1, 2, 3):
        answer = await caller.patch("/ways/unseen/1", headers={"If-Match": f'"{version}"'})
        assert (answer.status_code, await titles(sql)) == (412, "at two")


@pytest.mark.parametrize("place", ["basket", "peelings"])
async def test_a_row_that_is_only_looked_at_must_not_change_meanwhile(caller, place):
    answer = await caller.post(f"/ways/looking/at/{place}/1", headers={"If-Match": '"2"'})
    assert answer.status_code == 412
    for tag, status in (('"3"', 412), ("*", 200)):
        answer = await caller.post(f"/ways/looking/at/{place}/1", headers={"If-Match": tag})
        assert answer.status_code == status


@pytest.mark.parametrize("authenticate", [by_object, by_dto])
@pytest.mark.parametrize("way", ["by_orm", "by_bulk", "by_fetch", "by_fetch_of_loaded"])
async def test_the_callers_own_account_is_not_the_row(caller, alice, sql, authenticate, way):
    resources = resources_of(caller.app)
    scheme = CredentialScheme.header("X-Own", authenticate)
    resources._own[Credentials] = Credentials((scheme,))
    headers = {"X-Own": str(alice.user_id), "Authorization": ""}
    await sql.execute("UPDATE users SET full_name = 'x'; UPDATE users SET full_name = 'y'")
    rows = "SELECT (SELECT version FROM users), (SELECT version FROM peelings WHERE id = 1)"
    assert tuple(await sql.fetchrow(rows)) == (3, 2)
    for version, status in ((3, 412), (1, 412), (2, 200), (2, 412)):
        tag = {"If-Match": f'"{version}"'}
        answer = await caller.patch(f"/ways/{way}/somewhere/1", headers=headers | tag)
        assert answer.status_code == status, answer.text


@router.post("/first/{code}/then")
async def change_in_order(code: str, me: CurrentUser, session: Session) -> Nothing:
    """No table's name is in the path; both tables have a row of this key. The first seen counts."""
    peeling = await session.get(Peeling, int(code))
    section = await session.get(PeeledSection, int(code))
    peeling.title, section.heading = "new", "new"
    await session.flush()
    return Nothing()


async def test_of_two_rows_with_this_key_the_first_that_was_seen_counts(caller):
    for version, status in ((1, 412), (3, 412), (2, 200)):
        answer = await caller.post("/ways/first/1/then", headers={"If-Match": f'"{version}"'})
        assert answer.status_code == status


async def test_a_key_of_another_column_is_no_id(caller, sql):
    """The row with this number as its id is another one."""
    numbered = Table(
        "numbered",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("version", Integer),
        Column("number", Integer),
        Column("code", String, unique=True),
        Column("slug", String, index=True, unique=True),
    )

    def places(name, key):
        return [(column.name, value) for column, value in NamedRow(key, name, numbered).places()]

    assert places("numbered_id", "7") == [("id", 7)]
    assert places("number", "7") == []  # whose number it is says the owner, which the path may not
    assert places("code", "7") == [("code", "7")]
    assert places("slug", "7") == [("slug", "7")]
    assert places("key", "7") == [("id", 7), ("code", "7"), ("slug", "7")]
    assert places("key", "x") == [("code", "x"), ("slug", "x")]
    for key in ("99999999999", "1.0", "1e3", "\u0661", " 1", "--1", "x" * 9):
        assert places("numbered_id", key) == []
    for key in ("\x00", "\ud800"):
        assert places("key", key) == []
    assert NamedRow("7", "number", numbered).is_of(numbered, {"id": 1, "number": 7})
    assert not NamedRow("7", "number", numbered).is_of(numbered, {"id": 7, "number": 1})
    assert NamedRow("7", "x", numbered).is_of(numbered, {"id": 1, "code": "7"})


@pytest.mark.parametrize(
    ("path", "template", "params", "table", "key"),
    [
        ("/peelings/7", "/peelings/{peeling_id:id}", {"peeling_id": "7"}, "peelings", "7"),
        ("/api/v1/peelings/7/cook", "/{peeling_id}/cook", {"peeling_id": "7"}, "peelings", "7"),
        (
            "/peeled_articles/peeled_tags/peeled_tags",
            "/peeled_articles/{slug}/peeled_tags",
            {"slug": "peeled_tags"},
            "peeled_articles",
            "peeled_tags",
        ),
        (
            "/peeled_articles/a/peeled_tags/3",
            "/peeled_articles/{s}/peeled_tags/{t}",
            {"s": "a", "t": "3"},
            "peeled_tags",
            "3",
        ),
        ("/users/7/settings", "/settings", {"tenant": 7}, "users", "7"),
        ("/refresh-tokens/7", "/{id}", {"id": "7"}, "refresh_tokens", "7"),
        ("/nowhere/7", "/nowhere/{id}", {"id": "7"}, None, "7"),
        (
            "/peeled_article_tags/7",
            "/peeled_article_tags/{id}",
            {"id": "7"},
            None,
            "7",
        ),  # it has no version
        ("/peelings/7.json", "/peelings/{id}.json", {"id": "7"}, "peelings", "7"),
        ("/a/b/c", "/{rest:path}", {"rest": "a/b/c"}, None, "a/b/c"),
        ("/users/me", "/users/me", {}, None, None),
    ],
)
def test_a_path_names_the_table_in_front_of_its_last_key(path, template, params, table, key):
    named = NamedRow.of(path, template, params)
    assert (getattr(named.table, "name", None), named.key) == (table, key)


# In the middle of others.


@pytest.mark.parametrize("way", ["by_orm", "by_fetch", "by_sql"])
async def test_a_hundred_increments_with_if_match_lose_none(caller, sql, way):
    await sql.execute("UPDATE peelings SET description = '0'")

    async def increment():
        while True:
            peeling = (await caller.get("/peelings/1")).json()
            body = {"description": str(int(peeling["description"]) + 1)}
            tag = {"If-Match": f'"{peeling["version"]}"'}
            answer = await caller.put(f"/ways/increments/{way}/1", json=body, headers=tag)
            if answer.status_code == 200:
                return
            assert answer.status_code == 412

    async def twenty():
        for _ in range(20):
            await increment()

    await asyncio.gather(*[twenty() for _ in range(5)])
    row = await sql.fetchrow("SELECT description, version FROM peelings WHERE id = 1")
    assert tuple(row) == ("100", 103)


@router.put("/increments/{way}/{peeling_id}")
async def increment(
    way: str, peeling_id: Id, data: PeelingUpdate, me: CurrentUser, session: Session
) -> Nothing:
    """The path does not say which table it is."""
    if way == "by_orm":
        peeling = await session.get(Peeling, peeling_id)
        peeling.description = data.description
    elif way == "by_fetch":
        values = {"key": peeling_id, "description": data.description}
        await session.fetch(DESCRIBE, **values)
    else:
        await shown(session, peeling_id)
        sql = text("UPDATE peelings SET description = :text WHERE id = :id")
        await session.exec(sql, params={"text": data.description, "id": peeling_id})
    return Nothing()


serializable = Router(prefix="/serial", isolation="serializable")


@serializable.patch("/peelings/{peeling_id}")
async def change_serially(peeling_id: Id, me: CurrentUser, session: Session) -> Nothing:
    await shown(session, peeling_id)
    await asyncio.sleep(0.002)
    await by_bulk(session, peeling_id)
    return Nothing()


async def test_a_precondition_holds_at_every_level_of_isolation(mount, caller):
    async with mount(serializable) as other:
        other.headers.update(caller.headers)
        tag = {"If-Match": '"2"'}
        answers = await asyncio.gather(
            *[other.patch("/serial/peelings/1", headers=tag) for _ in range(10)]
        )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {409, 412}


async def test_a_key_and_a_dry_run_go_with_a_precondition(caller, sql):
    url, dry = "/peelings/1", {"Prefer": "tx=rollback"}
    body, tag = {"json": {"title": "x"}}, {"If-Match": '"2"'}
    for headers, status in (
        (dry | tag, 200),
        (dry | {"If-Match": '"9"'}, 412),
        (tag | {"Idempotency-Key": "a"}, 200),
        (tag | {"Idempotency-Key": "a"}, 200),  # a replay
        (tag | {"Idempotency-Key": "b"}, 412),
    ):
        assert (await caller.patch(url, **body, headers=headers)).status_code == status
    assert await sql.fetchval("SELECT version FROM peelings WHERE id = 1") == 3


async def test_a_request_without_a_precondition_waits_no_more_often(caller, log):
    """With one, it waits once more: the row is read and locked."""
    waits = {}
    for headers in ({}, {"If-Match": "*"}):
        for method, url in (("PATCH", "/peelings/1"), ("POST", "/ways/by_fetch/peelings/1")):
            body = {"json": {"title": str(len(waits))}} if method == "PATCH" else {}
            answer = await caller.request(method, url, headers=headers, **body)
            queries = int(answer.headers["server-timing"].split('"')[1].split()[0])
            waits.setdefault(url, []).append(queries)
    assert waits == {"/peelings/1": [3, 4], "/ways/by_fetch/peelings/1": [2, 3]}
