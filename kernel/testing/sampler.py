"""A valid request for every operation, with the rows that it needs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import httpx
import pytest
from fastapi import FastAPI

from kernel.testing import upstreams
from kernel.testing.callers import Caller
from kernel.testing.failures import tells_failure
from kernel.testing.hooks import Sample, all_hooks, settle
from kernel.testing.operations import Operation, operations
from kernel.testing.schemas import dig, numbers, put

REFUSED = (401, 403)


@dataclass(frozen=True)
class Request:
    """A request that a client could send; `path` has no query."""

    operation: Operation
    path: str
    body: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None

    @property
    def url(self) -> str:
        return self.path + (f"?{urlencode(self.params, doseq=True)}" if self.params else "")

    def with_query(self, name: str, quoted: str) -> str:
        """The URL with this text, quoted already, as the parameter."""
        others = {each: value for each, value in self.params.items() if each != name}
        return f"{self.path}?{urlencode(others, doseq=True)}{'&' if others else ''}{name}={quoted}"

    def with_key(self, name: str, quoted: str) -> str:
        """The URL with this text, quoted already, as the path's parameter."""
        way = re.sub(r"\{(\w+)(:\w+)?\}", r"(?P<\1>[^/]+)", self.operation.path)
        found = re.fullmatch(way, self.path)
        assert found, f"{self.path} is no path of {self.operation}"
        path = self.path[: found.start(name)] + quoted + self.path[found.end(name) :]
        return replace(self, path=path).url

    def with_body(self, body: Any) -> "Request":
        return replace(self, body=body)

    def with_raw(self, content: bytes, media_type: str | None = None) -> "Request":
        """The request with these bytes as its body."""
        kind = self.operation.media_type or "" if media_type is None else media_type
        return replace(self, raw=content, headers={**self.headers, "Content-Type": kind})

    def arguments(self) -> dict[str, Any]:
        """Headers and body as httpx takes them."""
        headers = dict(self.headers)
        if self.raw is not None:
            return {"content": self.raw, "headers": headers}
        body, is_form = self.body, self.operation.is_form
        members = body.items() if is_form and isinstance(body, dict) else ()
        files = {name: value for name, value in members if isinstance(value, bytes)}
        if files:  # the same bytes for the same body
            headers["Content-Type"] = "multipart/form-data; boundary=sample"
            fields = {name: value for name, value in members if name not in files}
            return {"files": files, "data": fields, "headers": headers}
        content = {} if body is None else {"data" if is_form else "json": body}
        return {**content, "headers": headers}


class Sampler:
    """Calls operations with valid requests, making the rows that paths and bodies name.

    Where the caller may not make a row, `admin` does.
    """

    def __init__(self, app: FastAPI, caller: Caller, admin: Caller | None = None) -> None:
        self.operations = {(each.method, each.path): each for each in operations(app)}
        self.caller, self._admin = caller, admin or caller
        self._keys: dict[str, Any] = {}
        for hooks in reversed(all_hooks(app)):
            self._keys |= hooks.get("KEYS")

    # Requests.

    async def prepare(self, operation: Operation, url: str | None = None) -> Request:
        """A valid request, for the state that BEFORE has made."""
        sample = await self._sample(operation)
        path = url or await self._path(operation)
        await self._set_up(operation, path)
        return Request(operation, path, sample.body, sample.params, sample.headers)

    async def url(self, operation: Operation) -> str:
        """The operation's URL, about a row that was made for it."""
        return (await self.prepare(operation)).url

    async def body(self, operation: Operation) -> Any:
        """A valid body, with things in it that only the service can give."""
        return (await self._sample(operation)).body

    async def send(self, request: Request, **headers: str) -> httpx.Response:
        """Send the request, and hold the answer; `headers` are named with underscores."""
        arguments = request.arguments()
        arguments["headers"] |= {k.replace("_", "-"): value for k, value in headers.items()}
        answer = await self.caller.request(request.operation.method, request.url, **arguments)
        holds(request.operation, answer)
        return answer

    async def call(
        self, operation: Operation, url: str | None = None, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Send a valid request, or one about this row or with this body."""
        path, _, query = (url or "").partition("?")
        if url and body is not None:
            request = Request(operation, path, body, dict(parse_qsl(query)))
        else:
            request = await self.prepare(operation, path or None)
        return await self.send(request if body is None else request.with_body(body), **headers)

    async def succeed(self, operation: Operation) -> httpx.Response:
        """The answer to a valid request."""
        answer = await self.call(operation)
        if not answer.is_success:
            fail(operation, answer, "success for a valid request")
        return answer

    # Bodies.

    async def _sample(self, operation: Operation) -> Sample:
        make = operation.hook("SAMPLES")
        if make is None:
            return await self._sample_by_schema(operation)
        made = await settle(make(self.caller, next(numbers))) if callable(make) else make
        if isinstance(made, Sample):
            return made
        return Sample(data=made) if operation.is_form else Sample(json=made)

    async def _sample_by_schema(self, operation: Operation) -> Sample:
        needed = operation.parameters("query", required=True)
        params = {name: operation.value(schema) for name, schema in needed.items()}
        needed = operation.parameters("header", required=True)
        headers = {name: str(operation.value(schema)) for name, schema in needed.items()}
        body = None
        if operation.body:
            body = operation.value(operation.body)
            for reference, table in operation.references.items():
                is_own = table == getattr(operation.table, "name", None)  # or it would never end
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
        """The POST that makes rows of a table or collection of this name, in a short path."""
        ends = (f"/{collection}", f"/{collection.replace('_', '-')}")
        found = [each for each in self.operations.values() if each.path.endswith(ends)]
        posts = [each for each in found if each.method == "POST"]
        return min(posts, key=lambda each: each.path.count("/"), default=None)

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
        """What stands in the path for the parameter: by KEYS, or the id of a new row of the
        collection above it, or of the collection of that name, or of the first row of the list."""
        told = operation.hooks.get("KEYS").get(name, self._keys.get(name))
        if callable(told):
            return await settle(told(self.caller))
        create = self.operations.get(("POST", above)) or self._create_of(
            above.rsplit("/", maxsplit=1)[-1]
        )
        if create is None:
            return await self._key_of_first(operation, name, above, url)
        answer = await self._make(create, url if create.path == above else None)
        key = key_in(answer.json() if answer.content else None, told)
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
        """Make a row; what the caller may not make, the admin makes."""
        answer = await self.call(create, url)
        if answer.status_code in REFUSED and self._admin is not self.caller:
            request = await self.prepare(create, url)
            answer = await self._admin.request("POST", request.url, **request.arguments())
        if not answer.is_success:
            fail(create, answer, "a new row for its sample")
        return answer

    async def _set_up(self, operation: Operation, path: str) -> None:
        before = operation.hook("BEFORE")
        answer = await settle(before(self.caller, path)) if before else None
        if isinstance(answer, httpx.Response) and not answer.is_success:
            seen = f"{answer.request.method} {answer.request.url.path}: {describe(answer)}"
            told = f"{operation.title}: its BEFORE in {operation.hooks.file} failed: {seen}"
            pytest.fail("\n".join([told, *advice_on_keys(operation)]), pytrace=False)


def key_in(made: Any, place: str | None) -> Any:
    """The key in the answer that made a row: at the place, or the `id`, which may be enveloped."""
    if place:
        return dig(made, tuple(place.split(".")))
    if not isinstance(made, dict):
        return None
    inner = [each["id"] for each in made.values() if isinstance(each, dict) and "id" in each]
    return made.get("id", inner[0] if len(inner) == 1 else None)


def advice_on_keys(operation: Operation) -> list[str]:
    return [
        "If a row's key is not its id, "
        + operation.hooks.advise("KEYS", name, '"place.in.the.answer.that.made.it"')
        for name in operation.parameters("path")
    ]


def describe(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:300]}"


def fail(operation: Operation, answer: httpx.Response, expected: str) -> None:
    """Fail, saying what the slice's tests can say about it."""
    advise = operation.advise
    unanswered = [
        f"It asked {url}, and no test answers: "
        + operation.hooks.advise("UPSTREAMS", url, "...  # the JSON, or a callable")
        for url in upstreams.unanswered
    ]
    lines = [
        f"{operation.title} answered {describe(answer)}",
        f"Expected: {expected}.",
        *unanswered,
        *advice_on_keys(operation),
        f"If the sample is not valid, {advise('SAMPLES', 'lambda caller, number: {...}')}",
        f"If a state has to be there first, {advise('BEFORE', 'lambda caller, url: ...')}",
        f"If the walk does not apply, {advise('SKIPS', repr('why'))}",
    ]
    pytest.fail("\n".join(lines), pytrace=False)


def holds(operation: Operation, answer: httpx.Response) -> None:
    """Hold an answer against the document: its status is declared, a failure has its form."""
    status = answer.status_code
    declared = sorted(operation.spec["responses"])
    assert str(status) in declared, (
        f"{operation.title} answered {describe(answer)}\nExpected: one of the statuses that it"
        f" declares, {', '.join(declared)}; its route can declare another one: responses={{…}}"
    )
    assert answer.headers["x-request-id"], f"{operation.title}: the answer has no X-Request-ID"
    if status >= 400:
        kind = answer.headers.get("content-type")
        told = f"{operation.title} answered {describe(answer)} as {kind}"
        declared = operation.spec["responses"][str(status)].get("content")
        assert tells_failure(operation, answer), f"{told}\nExpected: what it declares, {declared}"
