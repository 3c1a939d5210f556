"""A key is its caller's: what it means, what counts as the same request, and what is never kept."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import pytest
from fastapi import BackgroundTasks, Depends, File, Form, Request, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Discriminator, RootModel, Tag, computed_field
from pydantic import Field as PydanticField
from typing_extensions import TypeAliasType, TypedDict

from kernel.data.models import Dto, Secret
from kernel.errors import Unauthorized
from kernel.http.dependencies import Reader, Session
from kernel.http.fingerprints import digest_request
from kernel.http.router import Router
from kernel.http.secrets import has_secret, is_open
from kernel.identity.callers import Admin, CurrentUser, Viewer
from kernel.identity.principal import Principal
from kernel.tests.app import PATHS
from kernel.tests.peelings.models import Peeling, PeelingPublic

CANARY = "shown-once-only"
KEY = {"Idempotency-Key": "a-key"}
DRY = {"Prefer": "tx=rollback"}
T = TypeVar("T")


class Who(Dto):
    me: int | None


async def add(session, me, title="x"):
    return await session.insert(Peeling, PeelingPublic, title=title, owner_id=me.id)


async def peelings(sql):
    return await sql.fetchval("SELECT count(*) FROM peelings")


async def kept(sql):
    return await sql.fetch("SELECT * FROM idempotency_keys")


@pytest.fixture
def serve_routes(mount, alice):
    """Serve POST operations of these endpoints to Alice: `serve_routes(endpoint, retries=0)`."""

    def serve_routes(*endpoints, settings=None, **options):
        router = Router(prefix="/peels", tags=["peels"])
        for endpoint in endpoints:
            router.post(f"/{endpoint.__name__}", **options)(endpoint)
        return mount(router, **(settings or {}))

    return serve_routes


# Whose it is.


async def own_principal(request: Request, reader: Reader) -> Principal:
    """A scheme of a team's own, `Authorization: Token <id>`; the kernel does not know of it."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme != "Token":
        raise Unauthorized("sign in to do this")
    return Principal(int(given), "member")


async def who_by_token(me: Annotated[Principal, Depends(own_principal)], session: Session) -> Who:
    return Who(me=me.id)


async def who(me: Viewer, session: Session) -> Who:
    return Who(me=me and me.id)


async def only_for_admins(me: Admin, session: Session) -> Who:
    return Who(me=me.id)


async def test_a_dependency_of_ones_own_has_no_keys_and_so_nobodys_answer(
    serve_routes, alice, bob, sql
):
    made = (await alice.post("/keys", json={"name": "x"})).json()
    async with serve_routes(who_by_token) as client:
        # Bob's request, which has a credential of Alice's as well, is none of hers.
        for further in ({}, {"X-API-Key": made["key"]}):
            for caller in (alice, bob, alice):
                headers = {"Authorization": f"Token {caller.user_id}", **KEY, **further}
                answer = await client.post("/peels/who_by_token", headers=headers)
                assert (answer.status_code, answer.json()) == (200, {"me": caller.user_id})
        assert (await client.post("/peels/who_by_token", headers=KEY)).status_code == 401
    assert await kept(sql) == []


async def test_an_optional_caller_has_keys_and_a_stranger_none(serve_routes, alice, bob, sql):
    async with serve_routes(who) as client:
        for caller in (alice, bob):
            first = await client.post("/peels/who", headers={**caller.headers, **KEY})
            again = await client.post("/peels/who", headers={**caller.headers, **KEY})
            assert first.json() == again.json() == {"me": caller.user_id}
            assert again.headers["idempotent-replayed"] == "true"
        malformed = {"Idempotency-Key": "not one key"}
        for key in (KEY, KEY, malformed):
            answer = await client.post("/peels/who", headers=key)
            assert (answer.status_code, answer.json()) == (200, {"me": None})
            assert "idempotent-replayed" not in answer.headers
        answer = await client.post("/peels/who", headers={**alice.headers, **malformed})
        assert answer.status_code == 400
    assert len(await kept(sql)) == 2


@pytest.mark.parametrize("path", ["/peels/who", "/peelings"])
async def test_a_credential_that_is_not_valid_keeps_nothing(serve_routes, alice, sql, path):
    token = alice.headers["authorization"]
    async with serve_routes(who) as client:
        for headers in (
            [("Authorization", "Bearer x.y.z")],
            [("X-API-Key", "no key")],
            [("Authorization", token), ("X-API-Key", "no key")],
            [("Authorization", token), ("Authorization", token)],
        ):
            sent = [*headers, *KEY.items()]
            answer = await client.post(path, json={"title": "x"}, headers=sent)
            assert answer.status_code == 401
    assert await kept(sql) == []


async def test_another_role_is_another_caller(serve_routes, alice, sql):
    async def become(role):
        await sql.execute("UPDATE users SET role = $1 WHERE id = $2", role, alice.user_id)

    async with serve_routes(only_for_admins) as client:
        url, headers = "/peels/only_for_admins", {**alice.headers, **KEY}
        assert (await client.post(url, headers=headers)).status_code == 403
        await become("admin")
        assert (await client.post(url, headers=headers)).status_code == 200
        await become("member")
        assert (await client.post(url, headers=headers)).status_code == 403
        await become("admin")
        again = await client.post(url, headers=headers)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")


async def test_a_key_is_of_the_account_and_not_of_the_credential(alice, client, sql):
    key = (await alice.post("/keys", json={"name": "x"})).json()["key"]
    first = await alice.post("/peelings", json={"title": "x"}, headers=KEY)
    again = await client.post("/peelings", json={"title": "x"}, headers=KEY | {"X-API-Key": key})
    assert (first.content, first.status_code) == (again.content, again.status_code)
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_path_and_a_method_have_keys_of_their_own(alice, sql):
    first = (await alice.post("/peelings", json={"title": "x"}, headers=KEY)).json()
    second = (await alice.post("/peelings", json={"title": "y"})).json()
    for peeling in (first, second):
        for method in ("PUT", "PATCH"):
            answer = await alice.request(
                method, f"/peelings/{peeling['id']}", json={"title": method}, headers=KEY
            )
            assert (answer.status_code, answer.json()["title"]) == (200, method)
            assert "idempotent-replayed" not in answer.headers


async def test_who_is_gone_gets_no_answer_again(alice, sql):
    assert (await alice.post("/peelings", json={"title": "x"}, headers=KEY)).status_code == 201
    await sql.execute("DELETE FROM peelings; DELETE FROM users")
    assert (await alice.post("/peelings", json={"title": "x"}, headers=KEY)).status_code == 401


async def test_a_replay_is_logged_as_its_callers(alice, sql, log):
    for _ in range(2):
        await alice.post("/peelings", json={"title": "x"}, headers=KEY)
    lines = [line for line in log.lines("INFO") if line["message"] == "request"]
    assert [line["user_id"] for line in lines[-2:]] == [alice.user_id] * 2


# What is the same request.


def multipart(*parts, boundary="b"):
    """A body of (headers, content), as raw as it comes."""
    lines = b"".join(
        b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), headers.encode(), content)
        for headers, content in parts
    )
    return f"multipart/form-data; boundary={boundary}", lines + f"--{boundary}--\r\n".encode()


async def digest(media_type, body, query=b"", chunk=7):
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]

    async def receive():
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    headers = [(b"content-type", media_type.encode())] if media_type else []
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": query}
    return await digest_request(Request(scope | {"headers": headers}, receive))


JSON, FORM = "application/json", "application/x-www-form-urlencoded"
PART = 'Content-Disposition: form-data; name="a"'
FILE = f'{PART}; filename="f.txt"\r\nContent-Type: text/plain'
SAME = [
    [(JSON, b'{"a": 1, "b": [1.0, null]}'), (JSON, b'{"b":[1.0,null],"a":1}')],
    [(JSON, b'"\\u00e9"'), (f"{JSON}; charset=utf-8", '"\u00e9"'.encode())],
    [(JSON, b'{"a": 1, "a": 2}'), (JSON, b'{"a": 2}')],
    [(FORM, b"a=%7e+x&b="), (FORM, b"a=~%20x&b="), (FORM.upper(), b"%61=%7E%20x&b=")],
    [
        multipart((PART, b"x"), (FILE, b"y")),
        multipart((PART, b"x"), (FILE, b"y"), boundary="another-1"),
        multipart(
            ('content-disposition:form-data;name="a"', b"x"),
            ('Content-Type:  text/plain\r\nCONTENT-DISPOSITION: form-data; filename="f.txt";name=a',
             b"y"),
        ),
    ],
]  # fmt: skip
OTHER = [
    (JSON, b'{"a": 1}'),
    (JSON, b'{"a": 1.0}'),
    (JSON, b'{"a": "1"}'),
    (JSON, b'{"a": true}'),
    (JSON, b'{"a": [1]}'),
    (JSON, b'[{"a": 1}]'),
    (JSON, b'{"a": 1'),
    (JSON, b'{"a": 1}}'),
    (JSON, b'"' + b"[" * 99_999),
    (JSON, b"[" * 99_999),
    (JSON, b""),
    (None, b'{"a": 1}'),
    ("text/plain", b'{"a": 1}'),
    (FORM, b"a=1"),
    (FORM, b"a=1&a=1"),
    (FORM, b"a=1%26a=1"),
    (FORM, b"a=1;b=2"),
    (FORM, b"a=1%3Bb=2"),
    (FORM, b"a=%2B"),
    (FORM, b"a=+"),
    (FORM, b"a=1&b=2"),
    (FORM, b"b=2&a=1"),
    multipart((PART, b"x")),
    multipart((PART, b"x"), (PART, b"y")),
    multipart((PART, b"y"), (PART, b"x")),
    multipart((PART, b"xy"), (PART, b"")),
    multipart((f'{PART}; filename="f"', b"x")),
    multipart((f'{PART}; filename="g"', b"x")),
    multipart((f'{PART}; filename="g"\r\nContent-Type: text/html', b"x")),
    multipart((f'{PART}; filename="g"\r\nContent-Type: text/html\r\nX-Of: 7', b"x")),
    multipart((PART.replace("=", "=b"), b"x")),
    multipart((f"{PART}\r\nX-A: bc", b"x")),
    multipart((f"{PART}\r\nX-Ab: c", b"x")),
    multipart((FILE, b"x"), (PART, b"y")),
    multipart((PART, b"y"), (FILE, b"x")),
    multipart(),
    (multipart()[0], b"--b\r\nbroken :too"),
    (f"multipart/form-data; boundary={'b' * 999}", multipart((PART, b"x"))[1]),
    (multipart()[0] + "; charset=latin-1", multipart((PART, b"x"))[1]),
    ("application/octet-stream", b"\x00"),
    ("application/octet-stream", b"\x00\x00"),
]


@pytest.mark.parametrize("requests", SAME, ids=["order", "escapes", "twins", "form", "multipart"])
async def test_another_encoding_is_the_same_request(requests):
    digests = {await digest(*request, chunk=size) for request in requests for size in (1, 7, 9999)}
    assert len(digests) == 1


async def test_another_content_is_another_request():
    digests = [await digest(*request) for request in OTHER]
    assert len(set(digests)) == len(digests) == 41
    queries = [b"", b"a=1", b"a=2", b"a=1&b=2", b"b=2&a=1", b"a=%2B", b"a=+", b"A=1"]
    assert len({await digest(JSON, b"1", query) for query in queries}) == len(queries)
    assert await digest("text/plain", b"", b"a") != await digest("/plain", b"", b"atext")
    assert await digest(JSON, b"1", b"a=%7E+") == await digest(JSON, b"1", b"%61=~%20")


async def test_a_file_of_any_size_is_read_piece_by_piece():
    size, piece = 64 * 1024 * 1024, b"x" * 65536
    head, tail = (part.encode() for part in (f"--b\r\n{FILE}\r\n\r\n", "\r\n--b--\r\n"))
    given = iter([head, *[piece] * (size // len(piece)), tail])

    async def receive():
        body = next(given)
        return {"type": "http.request", "body": body, "more_body": body is not tail}

    headers = [(b"content-type", multipart()[0].encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b""}
    tracemalloc.start()
    await digest_request(Request(scope | {"headers": headers}, receive))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024 * 1024


async def upload(
    files: list[UploadFile], note: Annotated[str, Form()], me: CurrentUser, session: Session
) -> Response:
    contents = [await file.read() for file in files]
    await add(session, me, note)
    return JSONResponse([[len(content), content[:3].decode()] for content in contents])


async def upload_unsaid(request: Request, me: CurrentUser, session: Session) -> Response:
    async with request.form() as form:
        return await upload([form["files"]], "x", me, session)


@pytest.mark.parametrize("endpoint", [upload, upload_unsaid])
async def test_an_upload_that_is_sent_again_is_answered_again(
    serve_routes, alice, sql, fail_first, endpoint
):
    await fail_first(times=2)
    files = [("files", ("a.txt", b"abc" * 900_000))]
    async with serve_routes(endpoint, settings={"max_body_bytes": 2**22}) as client:
        url = f"/peels/{endpoint.__name__}"
        for _ in range(2):  # the client makes up another boundary each time
            answer = await client.post(
                url, files=files, data={"note": "x"}, headers={**alice.headers, **KEY}
            )
            assert (answer.status_code, answer.json()) == (200, [[2_700_000, "abc"]])
        other = [("files", ("a.txt", b"abd" * 900_000))]
        answer = await client.post(
            url, files=other, data={"note": "x"}, headers={**alice.headers, **KEY}
        )
    assert (answer.status_code, await peelings(sql)) == (422, 1)


async def test_json_with_other_blanks_is_answered_again(alice, sql):
    for text in ('{"title": "x", "description": null}', '{"description":null,\n"title":"x"}'):
        headers = KEY | {"Content-Type": "application/json; charset=utf-8"}
        answer = await alice.post("/peelings", content=text, headers=headers)
        assert answer.status_code == 201
    assert await peelings(sql) == 1


async def limited(
    note: Annotated[str, Form()], me: CurrentUser, files: Annotated[list[UploadFile], File()] = ()
) -> None: ...


LIMITS = [
    ({}, 200),
    ({"form_limits": {"max_fields": 0}}, 400),
    ({"form_limits": {"max_files": 1}}, 400),
    ({"form_limits": {"max_part_size": 1}}, 400),
    ({"max_body_size": 100}, 413),
]


async def test_limits_of_forms_and_bodies_hold_with_a_key(mount, alice, sql):
    router = Router(prefix="/peels")
    for number, (options, _) in enumerate(LIMITS):
        router.post(f"/{number}", **options)(limited)
    files = [("files", (name, b"x")) for name in "ab"]
    async with mount(router) as client:
        for number, (_, status) in enumerate(LIMITS):
            for key in ({}, KEY):
                answer = await client.post(
                    f"/peels/{number}",
                    data={"note": "xy"},
                    files=files,
                    headers={**alice.headers, **key},
                )
                assert answer.status_code == status, (number, key)
    assert len(await kept(sql)) == 1


# Nothing is held while a client sends.


async def reads_itself(request: Request, me: CurrentUser, session: Session) -> Who:
    await request.body()
    return Who(me=me.id)


@pytest.mark.parametrize(
    ("path", "media_type", "key"),
    [
        ("/peelings", JSON, True),
        ("/peelings/upload", multipart()[0], True),
        ("/peelings/7/cook", "text/plain", True),
        ("/peels/reads_itself", "text/plain", False),
        ("/peels/reads_itself", "text/plain", True),
        (PATHS["create_token"], FORM, True),
    ],
)
async def test_half_a_body_holds_no_connection(serve_routes, alice, sql, path, media_type, key):
    async def never():
        await asyncio.Event().wait()

    async def stall(app):
        sent = iter([{"type": "http.request", "body": b"{", "more_body": True}])
        headers = {"host": "test", "content-type": media_type, "content-length": "100"}
        headers |= {"authorization": alice.headers["authorization"]}
        headers |= {"idempotency-key": "a-key"} if key else {}
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "http_version": "1.1", "client": ("127.0.0.1", 1),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip

        async def receive():
            return next(sent, None) or await never()

        await app(scope, receive, lambda message: asyncio.sleep(0))

    few = {"pool_size": 1, "max_overflow": 0, "read_pool_size": 1, "pool_timeout": 0.5}
    async with serve_routes(reads_itself, settings=few) as client:
        stalled = [asyncio.create_task(stall(client.app)) for _ in range(25)]
        await asyncio.sleep(0.2)
        answers = [
            await client.post("/peelings", json={"title": "x"}, headers=alice.headers)
            for _ in range(3)
        ]
        for task in stalled:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert [answer.status_code for answer in answers] == [201] * 3


# What is never kept.


class Inner(Dto):
    token: Secret = CANARY


class Outer(Dto):
    inner: Inner = Inner()


class Inherited(Inner):
    more: int = 1


class Optional(Dto):
    inner: Inner | None = Inner()


class Lists(Dto):
    inners: list[Inner]


class Dicts(Dto):
    inners: dict[str, tuple[int, Secret]]


class Envelope(BaseModel, Generic[T]):
    data: T


class Tree(Dto):
    children: list["Tree"]
    token: Secret | None = None


class Computed(Dto):
    @computed_field
    @property
    def token(self) -> Secret:
        return CANARY


class Aliased(Dto):
    inner: Inner = PydanticField(default=Inner(), alias="other", serialization_alias="third")


class Typed(TypedDict):
    inner: Inner


class Named(NamedTuple):
    inner: Inner = Inner()


@dataclass
class Data:
    inner: Inner


class Rooted(RootModel[list[Inner]]): ...


class Cat(BaseModel):
    kind: str = "metadata"
    metadata: Annotated[str, PydanticField(max_length=3)] = "x"


class OneKind(BaseModel):
    kind: Annotated[str, PydanticField(pattern="a")] = "a"
    config: Secret = CANARY


class Free(BaseModel):
    model_config = ConfigDict(extra="allow")


class General(BaseModel):
    model_config = ConfigDict(polymorphic_serialization=True)


class Special(General):
    token: Secret = CANARY


class Hidden(Dto):
    token: Secret = PydanticField(default=CANARY, exclude=True)


Alias = TypeAliasType("Alias", list[Inner])
TREE = Tree(children=[Tree(children=[], token=CANARY)])
SECRETS = {
    "plain": (Inner, Inner()),
    "nested": (Outer, Outer()),
    "inherited": (Inherited, Inherited()),
    "optional": (Optional, Optional()),
    "list of models": (Lists, Lists(inners=[Inner()])),
    "dict of tuples": (Dicts, Dicts(inners={"a": (1, CANARY)})),
    "generic": (Envelope[Inner], Envelope[Inner](data=Inner())),
    "generic of a secret": (Envelope[Secret], Envelope[Secret](data=CANARY)),
    "recursive": (Tree, TREE),
    "computed": (Computed, Computed()),
    "alias": (Aliased, Aliased()),
    "typed dict": (Typed, {"inner": Inner()}),
    "named tuple": (Named, Named()),
    "dataclass": (Data, Data(Inner())),
    "root": (Rooted, Rooted([Inner()])),
    "list": (list[Inner], [Inner()]),
    "union": (Cat | OneKind, OneKind()),
    "type alias": (Alias, [Inner()]),
    "bare": (Secret, CANARY),
    "declared, with a response": (Inner, JSONResponse({"token": CANARY})),
}
# What these hold, only an answer tells.
OPEN = {
    "nothing declared": (None, Inner()),
    "any": (Any, {"a": [Inner()]}),
    "dict": (dict[str, Any], {"a": {"b": Outer()}}),
    "extras": (Free, Free(a=[Inner()])),
    "unbound generic": (Envelope, Envelope(data=(1, Inner()))),
    "subclass": (Envelope[General], Envelope[General](data=Special())),
    "in a list": (list, [1, Inner()]),
    "in a model": (None, Envelope[Any](data=Data(Inner()))),
}


def gives(value, *, is_coroutine):
    """An endpoint that leaves a row and answers with the value."""

    async def leave_a_row(me: CurrentUser, session: Session) -> None:
        await add(session, me)

    async def give(_: Annotated[None, Depends(leave_a_row)]):
        return value

    def give_in_thread(_: Annotated[None, Depends(leave_a_row)]):
        return value

    return give if is_coroutine else give_in_thread


@pytest.mark.parametrize("is_coroutine", [True, False])
async def test_a_secret_is_answered_once_and_never_kept(mount, alice, sql, is_coroutine):
    router, cases = Router(prefix="/peels"), list(enumerate((SECRETS | OPEN).items()))
    for number, (_, (declared, value)) in cases:
        endpoint = gives(value, is_coroutine=is_coroutine)
        router.post(f"/{number}", response_model=declared, name=f"give_{number}")(endpoint)
    async with mount(router) as client:
        client.headers.update(alice.headers)
        paths = (await client.get("/openapi.json")).json()["paths"]
        for number, (name, _) in cases:
            url = f"/peels/{number}"
            rehearsed = await client.post(url, headers=DRY)
            assert (rehearsed.status_code, CANARY in rehearsed.text) == (400, False), name
            assert await peelings(sql) == number, name
            first = await client.post(url, headers=KEY)
            assert (first.status_code, CANARY in first.text) == (200, True), name
            again = await client.post(url, headers=KEY)
            assert (again.status_code, CANARY in again.text) == (409, False), name
            assert await peelings(sql) == number + 1, name
            offered = {each["name"] for each in paths[url]["post"]["parameters"]}
            assert ("Prefer" in offered) == (name in OPEN), name
    rows = [(row["status"], row["body"], row["headers"]) for row in await kept(sql)]
    assert rows == [(200, None, "null")] * len(cases)


async def test_a_secret_of_another_status_or_of_an_event_is_declared_as_well(mount):
    router = Router(prefix="/peels")

    async def accept(me: CurrentUser, session: Session) -> Response:
        raise AssertionError

    async def tell(me: CurrentUser, session: Session) -> AsyncIterator[Inner]:
        yield Inner()

    router.post("/accept", responses={202: {"model": Inner}})(accept)
    router.post("/tell", response_class=EventSourceResponse)(tell)
    async with mount(router) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    for path in ("/peels/accept", "/peels/tell"):
        assert "Prefer" not in {each["name"] for each in paths[path]["post"]["parameters"]}


async def test_what_an_attempt_that_failed_had_answered_does_not_count(
    mount, alice, sql, fail_first
):
    answers = iter([Inner(), "plain"])

    async def fail_behind(me: CurrentUser, session: Session):
        yield
        await add(session, me)

    async def give(_: Annotated[None, Depends(fail_behind, scope="function")]) -> Any:
        return next(answers)

    await fail_first(times=1)
    router = Router(prefix="/peels")
    router.post("")(give)
    async with mount(router) as client:
        for _ in range(2):
            answer = await client.post("/peels", headers={**alice.headers, **KEY})
            assert (answer.status_code, answer.json()) == (200, "plain")


async def test_a_secret_that_is_not_in_the_answer_is_none(mount, alice, sql):
    """FastAPI answers with the fields of what is declared, whatever the endpoint returns."""
    router = Router(prefix="/peels")

    @router.post("/less")
    async def give_less(me: CurrentUser, session: Session) -> Who:
        class More(Who):
            token: Secret = CANARY

        return More(me=me.id)

    @router.post("/hidden")
    async def hide(me: CurrentUser, session: Session) -> Hidden:
        return Hidden()

    async with mount(router) as client:
        for path in ("/peels/less", "/peels/hidden"):
            for _ in range(2):
                answer = await client.post(path, headers={**alice.headers, **KEY})
                assert (answer.status_code, CANARY in answer.text) == (200, False)
            assert answer.headers["idempotent-replayed"] == "true"


def test_what_a_model_calls_its_fields_does_not_matter():
    assert has_secret(OneKind)
    assert not has_secret(Cat)
    cats, kinds = Annotated[Cat, Tag("metadata")], Annotated[OneKind, Tag("config")]
    assert has_secret(Annotated[cats | kinds, Discriminator(lambda value: value["kind"])])
    told, number = Annotated[Secret, Tag("config")], Annotated[int, Tag("metadata")]
    assert has_secret(Annotated[told | number, Discriminator(str)])
    assert not has_secret(PeelingPublic)
    assert [is_open(each) for each in (Cat, PeelingPublic, list[Who], None, int)] == [False] * 5


async def cookie(me: CurrentUser, session: Session, response: Response) -> Who:
    response.set_cookie("session", CANARY)
    return Who(me=(await add(session, me)).owner_id)


async def cookie_of_its_own(me: CurrentUser, session: Session) -> Response:
    await add(session, me)
    response = Response("done")
    response.raw_headers.append((b"Set-Cookie", f"session={CANARY}".encode()))
    return response


async def streamed(me: CurrentUser, session: Session) -> StreamingResponse:
    await add(session, me)

    async def lines() -> AsyncIterator[str]:
        yield "a,b\n"

    return StreamingResponse(lines(), media_type="text/csv")


async def filed(me: CurrentUser, session: Session) -> FileResponse:
    await add(session, me)
    return FileResponse(__file__)


class OwnWay(Response):
    """Sends what it was not made with."""

    async def __call__(self, scope, receive, send):
        await Response("another")(scope, receive, send)


async def sent_in_its_own_way(me: CurrentUser, session: Session) -> Response:
    await add(session, me)
    return OwnWay("one")


async def events(me: CurrentUser, session: Session) -> AsyncIterator[Who]:
    yield Who(me=me.id)


NOT_KEPT = [cookie, cookie_of_its_own, streamed, filed, sent_in_its_own_way]


async def test_a_cookie_and_a_stream_are_given_once(serve_routes, alice, sql):
    async with serve_routes(*NOT_KEPT) as client:
        client.headers.update(alice.headers)
        for number, endpoint in enumerate(NOT_KEPT):
            url = f"/peels/{endpoint.__name__}"
            rehearsed = await client.post(url, headers=DRY)
            assert (rehearsed.status_code, rehearsed.headers.get("set-cookie")) == (400, None)
            assert await peelings(sql) == number
            first, again = [await client.post(url, headers=KEY) for _ in range(2)]
            assert (first.status_code, bool(first.content), again.status_code) == (200, True, 409)
            assert ("set-cookie" in again.headers, await peelings(sql)) == (False, number + 1)
    assert again.json()["message"] == (
        "this was done before; its response is not kept: it had a secret, a cookie or a stream"
    )
    assert CANARY not in str(await kept(sql))


@pytest.mark.parametrize("options", [{}, {"response_class": EventSourceResponse}])
async def test_events_and_lines_are_given_once(serve_routes, alice, sql, options):
    async with serve_routes(events, **options) as client:
        first = await client.post("/peels/events", headers={**alice.headers, **KEY})
        again = await client.post("/peels/events", headers={**alice.headers, **KEY})
    assert (first.status_code, again.status_code) == (200, 409)
    assert json.dumps({"me": alice.user_id}, separators=(",", ":")) in first.text


async def test_an_answer_that_is_kept_no_more_leaves_no_older_one_behind(serve_routes, alice, sql):
    answers = iter([Response("old"), Response("new", headers={"set-cookie": "a=b"})])

    async def first_without(me: CurrentUser, session: Session) -> Response:
        return next(answers)

    async with serve_routes(first_without) as client:
        for status in (200, 200, 409):
            answer = await client.post("/peels/first_without", headers={**alice.headers, **KEY})
            assert answer.status_code == status
            if answer.text == "old":
                await sql.execute(
                    "UPDATE idempotency_keys SET created_at = now() - interval '2 days'"
                )


async def test_what_is_done_behind_an_answer_is_done_though_it_is_not_kept(
    serve_routes, alice, sql
):
    done = []

    async def with_tasks(me: CurrentUser, session: Session, tasks: BackgroundTasks) -> Inner:
        tasks.add_task(done.append, "task")
        session.after_commit(done.append, "commit")
        await add(session, me)
        return Inner()

    async with serve_routes(with_tasks) as client:
        for _ in range(2):
            await client.post("/peels/with_tasks", headers={**alice.headers, **KEY})
    assert sorted(done) == ["commit", "task"]


# What a replay says.


async def test_a_replay_has_the_headers_of_the_first_answer_and_those_of_its_own(
    serve_routes, alice, sql
):
    async def with_headers(me: CurrentUser, session: Session, response: Response) -> PeelingPublic:
        headers = {"Location": "/peelings/1", "Link": '</>; rel="up"', "X-Of": "first"}
        of_request = {"X-Request-ID": "mine", "Server-Timing": "mine", "Date": "yesterday"}
        response.headers.update(headers | of_request)
        return await add(session, me)

    async with serve_routes(with_headers, status_code=201) as client:
        first, again = [
            await client.post(
                "/peels/with_headers", headers={**alice.headers, **KEY, "X-Request-ID": name}
            )
            for name in ("one", "two")
        ]
    for name in ("etag", "location", "link", "content-type", "content-length", "x-of"):
        assert again.headers[name] == first.headers[name]
    assert again.headers.get_list("x-request-id") == ["two"]
    assert "mine" not in again.headers["server-timing"]
    assert "date" not in again.headers


# A change of the secret.


def replaced(settings, *, is_kept):
    """As an operator does it: the new secret, and the old one beside it, until it is let go."""
    new = type(settings.jwt_secret)("another secret, of 40 characters or so")
    return {"jwt_secret": new, "jwt_old_secret": settings.jwt_secret if is_kept else None}


@pytest.mark.parametrize(("is_kept", "status"), [(True, 201), (False, 422)])
async def test_a_key_survives_the_secret_that_its_content_was_signed_with(
    serve, settings, alice, sign_in, sql, is_kept, status
):
    body = {"title": "x"}
    first = await alice.post("/peelings", json=body, headers=KEY)
    async with serve(**replaced(settings, is_kept=is_kept)) as client:
        app = client._transport.app
        headers = await sign_in(app, alice.user_id) | KEY
        again = await client.post("/peelings", json=body, headers=headers)
        other = await client.post("/peelings", json={"title": "y"}, headers=headers)
        new = await client.post("/peelings", json=body, headers=headers | {"Idempotency-Key": "n"})
        assert new.status_code == 201
    assert (again.status_code, other.status_code) == (status, 422)
    assert (again.content == first.content) is is_kept
    old = await alice.post("/peelings", json=body, headers={"Idempotency-Key": "n"})
    assert old.status_code == 422  # who has the old secret alone cannot tell


@pytest.mark.parametrize(("is_kept", "status"), [(True, 200), (False, 422)])
async def test_a_cursor_survives_the_secret_that_it_was_signed_with(
    serve, settings, alice, sign_in, sql, is_kept, status
):
    for title in "abc":
        await alice.post("/peelings", json={"title": title})
    cursor = (await alice.get("/peelings", params={"limit": 1})).json()["next_cursor"]
    async with serve(**replaced(settings, is_kept=is_kept)) as client:
        headers = await sign_in(client._transport.app, alice.user_id)
        page = {"limit": 1, "cursor": cursor}
        answer = await client.get("/peelings", params=page, headers=headers)
    assert answer.status_code == status
