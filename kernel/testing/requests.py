"""Requests as clients could send them, and the checks of their answers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from kernel.testing import upstreams
from kernel.testing.failures import tells_failure
from kernel.testing.operations import Operation


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
        """The URL with this text, already percent-encoded, as the query's parameter."""
        others = {other: value for other, value in self.params.items() if other != name}
        return f"{self.path}?{urlencode(others, doseq=True)}{'&' if others else ''}{name}={quoted}"

    def with_key(self, name: str, quoted: str) -> str:
        """The URL with this text, already percent-encoded, as the path's parameter."""
        pattern = re.sub(r"\{(\w+)(:\w+)?\}", r"(?P<\1>[^/]+)", self.operation.path)
        match = re.fullmatch(pattern, self.path)
        assert match, f"{self.path} is no path of {self.operation}"
        path = self.path[: match.start(name)] + quoted + self.path[match.end(name) :]
        return replace(self, path=path).url

    def with_body(self, body: Any) -> "Request":
        return replace(self, body=body)

    def with_raw(self, content: bytes, media_type: str | None = None) -> "Request":
        """The request with these bytes as its body."""
        kind = self.operation.media_type or "" if media_type is None else media_type
        return replace(self, raw=content, headers={**self.headers, "Content-Type": kind})

    def arguments(self) -> dict[str, Any]:
        """Headers and body as keyword arguments of `httpx.AsyncClient.request`."""
        headers = dict(self.headers)
        if self.raw is not None:
            return {"content": self.raw, "headers": headers}
        body, is_form = self.body, self.operation.is_form
        members = body.items() if is_form and isinstance(body, dict) else ()
        files = {name: value for name, value in members if isinstance(value, bytes)}
        if files:  # with a fixed boundary: a replay needs the same bytes for the same body
            headers["Content-Type"] = "multipart/form-data; boundary=sample"
            fields = {name: value for name, value in members if name not in files}
            return {"files": files, "data": fields, "headers": headers}
        content = {} if body is None else {"data" if is_form else "json": body}
        return {**content, "headers": headers}


def advice_on_keys(operation: Operation) -> list[str]:
    return [
        "If a row's key is not its id, "
        + operation.hooks.advise("KEYS", name, '"place.in.the.answer.that.made.it"')
        for name in operation.parameters("path")
    ]


def describe(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:300]}"


def fail(operation: Operation, answer: httpx.Response, expected: str) -> None:
    """Fail the test, with the hooks that the slice's tests can write to help."""
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
    """Check an answer against the document: its status is declared, an error has its form.

    Raises:
        AssertionError: it is not as documented.
    """
    status = answer.status_code
    declared = sorted(operation.spec["responses"])
    assert str(status) in declared or operation.failure(status), (
        f"{operation.title} answered {describe(answer)}\nExpected: one of the statuses that it"
        f" declares, {', '.join(declared)}; its route can declare another one: responses={{…}}"
    )
    assert answer.headers["x-request-id"], f"{operation.title}: the answer has no X-Request-ID"
    if status >= 400:
        kind = answer.headers.get("content-type")
        answered = f"{operation.title} answered {describe(answer)} as {kind}"
        content = (operation.failure(status) or {}).get("content")
        assert tells_failure(operation, answer), (
            f"{answered}\nExpected: what it declares, {content}"
        )
