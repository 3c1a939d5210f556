"""Makes a valid request for every operation, and the rows that it refers to."""

import re
from typing import Any
from urllib.parse import parse_qsl, quote

import httpx
import pytest
from fastapi import FastAPI

from kernel.samples import Sample
from kernel.testing.callers import Caller
from kernel.testing.fixtures import SignUp
from kernel.testing.hooks import all_hooks, settle
from kernel.testing.operations import Operation, operations
from kernel.testing.requests import Request, advice_on_keys, describe, fail, holds
from kernel.testing.schemas import dig, numbers, put

REFUSED = (401, 403)


class Sampler:
    """Calls operations with valid requests, making the rows that paths and bodies name.

    Where the caller may not make a row, `admin` does.
    """

    def __init__(self, app: FastAPI, caller: Caller, admin: Caller | None = None) -> None:
        self.operations = {(one.method, one.path): one for one in operations(app)}
        self.caller, self.admin = caller, admin or caller
        self._keys: dict[str, Any] = {}
        for hooks in reversed(all_hooks(app)):
            self._keys |= hooks.get("KEYS")

    async def as_another(self, sign_up: SignUp) -> "Sampler":
        """A sampler whose caller is another account of the same role."""
        return Sampler(self.caller.app, await sign_up("Another", self.caller.role), self.admin)

    # Requests.

    async def prepare(self, operation: Operation, url: str | None = None) -> Request:
        """A valid request, after BEFORE has made the state that it needs. `url` is the path to use
        in place of one with new rows."""
        sample = await self._sample(operation)
        path = url or await self._path(operation)
        await self._set_up(operation, path)
        return Request(operation, path, sample.body, sample.params, sample.headers)

    async def url(self, operation: Operation) -> str:
        """The operation's URL, whose keys are those of new rows."""
        return (await self.prepare(operation)).url

    async def body(self, operation: Operation) -> Any:
        """A valid body, in which references are ids of new rows."""
        return (await self._sample(operation)).body

    async def send(self, request: Request, **headers: str) -> httpx.Response:
        """Send the request, and check that the answer is as documented; `headers` are named with
        underscores."""
        arguments = request.arguments()
        arguments["headers"] |= {k.replace("_", "-"): value for k, value in headers.items()}
        answer = await self.caller.request(request.operation.method, request.url, **arguments)
        holds(request.operation, answer)
        return answer

    async def call(
        self, operation: Operation, url: str | None = None, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Send a valid request; `url` and `body` replace those of the sample."""
        path, _, query = (url or "").partition("?")
        if url and body is not None:
            request = Request(operation, path, body, dict(parse_qsl(query)))
        else:
            request = await self.prepare(operation, path or None)
        return await self.send(request if body is None else request.with_body(body), **headers)

    async def succeed(self, operation: Operation) -> httpx.Response:
        """The answer to a valid request; the test fails if that is no success."""
        answer = await self.call(operation)
        if not answer.is_success:
            fail(operation, answer, "success for a valid request")
        return answer

    # Bodies.

    async def _sample(self, operation: Operation) -> Sample:
        make = operation.hook("SAMPLES")
        if make is None:
            return await self._sample_by_schema(operation)
        sample = await settle(make(self.caller, next(numbers))) if callable(make) else make
        if isinstance(sample, Sample):
            return sample
        return Sample(data=sample) if operation.is_form else Sample(json=sample)

    async def _sample_by_schema(self, operation: Operation) -> Sample:
        needed = operation.parameters("query", required=True)
        params = {name: operation.value(schema) for name, schema in needed.items()}
        needed = operation.parameters("header", required=True)
        headers = {name: str(operation.value(schema)) for name, schema in needed.items()}
        body = None
        if operation.body:
            body = operation.value(operation.body)
            for reference, table in operation.references.items():
                # A new row of its own table would need another one, without end.
                is_own = table == getattr(operation.table, "name", None)
                body = put(
                    body, reference.path, None if is_own else await self._row(operation, table)
                )
        return Sample(json=body, params=params, headers=headers)

    async def _row(self, operation: Operation, table: str) -> Any:
        """The id of a new row to refer to."""
        create = self._create_of(table)
        if create is None:
            pytest.fail(
                f"{operation.title}: its body refers to {table}, and no POST makes one: "
                + operation.advise("SAMPLES", "lambda caller, number: {...}"),
                pytrace=False,
            )
        return key_in((await self._make(create)).json(), None)

    def _create_of(self, collection: str) -> Operation | None:
        """The POST of the shortest path that ends with this table's or collection's name."""
        ends = (f"/{collection}", f"/{collection.replace('_', '-')}")
        matching = [one for one in self.operations.values() if one.path.endswith(ends)]
        posts = [one for one in matching if one.method == "POST"]
        return min(posts, key=lambda post: post.path.count("/"), default=None)

    # Paths.

    async def _path(self, operation: Operation) -> str:
        path = operation.path
        for name in operation.parameters("path"):
            place = re.search(rf"\{{{name}(:\w+)?\}}", path)
            assert place, f"{operation.title}: no {name} in {path}"
            above = re.split(rf"\{{{name}(?::\w+)?\}}", operation.path, maxsplit=1)[0].rstrip("/")
            key = await self._key(operation, name, above, path[: place.start()].rstrip("/"))
            path = path[: place.start()] + quote(str(key), safe="") + path[place.end() :]
        return path

    async def _key(self, operation: Operation, name: str, above: str, url: str) -> Any:
        """The value of a path parameter: by KEYS, or else the id of a new row of the collection
        `above` the parameter, of any collection of the same name, or of the first row listed."""
        create = self.operations.get(("POST", above)) or self._create_of(
            above.rsplit("/", maxsplit=1)[-1]
        )
        # A slice that makes the row itself knows its key: another's KEYS may share the name.
        is_own = create is not None and create.hooks.file == operation.hooks.file
        hook = operation.hooks.get("KEYS").get(name, None if is_own else self._keys.get(name))
        if callable(hook):
            return await settle(hook(self.caller))
        if create is None:
            return await self._key_of_first(operation, name, above, url)
        answer = await self._make(create, url if create.path == above else None)
        key = key_in(answer.json() if answer.content else None, hook)
        if key is None:
            self._miss(operation, name, f"{create.title} answered {answer.text[:200]}")
        return key

    async def _key_of_first(self, operation: Operation, name: str, above: str, url: str) -> Any:
        listing = self.operations.get(("GET", above))
        rows = (await self.call(listing, url)).json() if listing else None
        items = rows.get("items") if isinstance(rows, dict) else rows
        key = key_in(items[0], self._keys.get(name)) if items else None
        if key is None:
            self._miss(operation, name, f"no operation makes or lists rows of {above or '/'}")
        return key

    def _miss(self, operation: Operation, name: str, seen: str) -> None:
        hint = operation.hooks.advise("KEYS", name, '"place.in.that.answer"  # or a callable')
        pytest.fail(
            f"{operation.title}: nothing gives its {{{name}}}: {seen}. {hint}", pytrace=False
        )

    async def _make(self, create: Operation, url: str | None = None) -> httpx.Response:
        """Make a row, as the caller or, if that gets 401 or 403, as the admin."""
        answer = await self.call(create, url)
        if answer.status_code in REFUSED and self.admin is not self.caller:
            request = await self.prepare(create, url)
            answer = await self.admin.request("POST", request.url, **request.arguments())
        if not answer.is_success:
            fail(create, answer, "a new row for its sample")
        return answer

    async def _set_up(self, operation: Operation, path: str) -> None:
        before = operation.hook("BEFORE")
        answer = await settle(before(self.caller, path)) if before else None
        if isinstance(answer, httpx.Response) and not answer.is_success:
            call = f"{answer.request.method} {answer.request.url.path}: {describe(answer)}"
            message = f"{operation.title}: its BEFORE in {operation.hooks.file} failed: {call}"
            pytest.fail("\n".join([message, *advice_on_keys(operation)]), pytrace=False)


def key_in(body: Any, place: str | None) -> Any:
    """The key in the answer that made a row: at this place ("article.slug"), or else its `id`, or
    that of its only member with an `id`; None if there is none."""
    if place:
        return dig(body, tuple(place.split(".")))
    if not isinstance(body, dict):
        return None
    inner = [
        member["id"] for member in body.values() if isinstance(member, dict) and "id" in member
    ]
    return body.get("id", inner[0] if len(inner) == 1 else None)
