"""Finds the changes between two OpenAPI documents that break clients."""

from collections.abc import Iterator
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
# Bounds of what a client sends: a smaller upper one, or a larger lower one, is narrower.
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
Schema = dict[str, Any]


def broken(old: Schema, new: Schema) -> list[str]:
    """The changes that would break a client of the old document, a line for each."""
    return sorted(set(_Comparison(old, new).all()))


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new

    def all(self) -> Iterator[str]:
        for path, methods in self._old["paths"].items():
            for method in METHODS:
                before, after = methods.get(method), self._new["paths"].get(path, {}).get(method)
                place = f"{method.upper()} {path}"
                if before and not after:
                    yield f"{place}: gone"
                elif before and after:
                    yield from self._operation(place, before, after)

    def _operation(self, place: str, old: Schema, new: Schema) -> Iterator[str]:
        if old.get("operationId") != new.get("operationId"):
            yield f"{place}: is called {new.get('operationId')} now"
        if not old.get("security") and new.get("security"):
            yield f"{place}: asks for a credential"
        yield from self._parameters(place, old, new)
        yield from self._body(place, old, new)
        for status in old["responses"]:
            if status[0] == "2":
                yield from self._answer(f"{place}: {status}", status, old, new)

    def _parameters(self, place: str, old: Schema, new: Schema) -> Iterator[str]:
        before, after = _named(old), _named(new)
        for name in before.keys() - after.keys():
            yield f"{place}: parameter {name}: gone"
        for name, parameter in after.items():
            old_one = before.get(name)
            if parameter.get("required") and not (old_one or {}).get("required"):
                yield f"{place}: parameter {name}: required"
            if old_one:
                schemas = old_one["schema"], parameter["schema"]
                yield from self._schema(f"{place}: parameter {name}", *schemas, sent=True)

    def _body(self, place: str, old: Schema, new: Schema) -> Iterator[str]:
        before = old.get("requestBody", {}).get("content", {})
        after = new.get("requestBody", {}).get("content", {})
        if after and not before:
            yield f"{place}: body: required"
        for kind in before:
            if kind not in after:
                yield f"{place}: body: {kind} is gone"
            else:
                schemas = before[kind]["schema"], after[kind]["schema"]
                yield from self._schema(f"{place}: body", *schemas, sent=True)

    def _answer(self, place: str, status: str, old: Schema, new: Schema) -> Iterator[str]:
        if status not in new["responses"]:
            yield f"{place}: gone"
            return
        before, after = (each["responses"][status] for each in (old, new))
        for name in before.get("headers", {}).keys() - after.get("headers", {}).keys():
            yield f"{place}: header {name}: gone"
        for kind, content in before.get("content", {}).items():
            described = after.get("content", {}).get(kind, {})
            # A stream of events has one schema for all events (OpenAPI 3.2, §4.14.4); in a document
            # of 3.1 it is an extension.
            for names in (("schema",), ("itemSchema", "x-itemSchema")):
                old_part, new_part = _first(content, names), _first(described, names)
                if old_part:
                    yield from self._schema(place, old_part, new_part, sent=False)

    def _schema(self, place: str, old: Schema, new: Schema, *, sent: bool) -> Iterator[str]:
        old, new = self._resolved(self._old, old), self._resolved(self._new, new)
        # A request may be any that was valid before; a response, only what the client knows.
        narrow, wide = (new, old) if sent else (old, new)
        for kind in _kinds(wide) - _kinds(narrow):
            yield f"{place}: {'no longer' if sent else 'may be'} {kind}"
        yield from _values(place, old, new)
        if sent:
            yield from _bounds(place, old, new)
        for name, schema in old.get("properties", {}).items():
            if name not in new.get("properties", {}):
                yield f"{place}.{name}: gone"
            else:
                yield from self._schema(
                    f"{place}.{name}", schema, new["properties"][name], sent=sent
                )
        before, after = set(old.get("required", ())), set(new.get("required", ()))
        for name in after - before if sent else before - after:
            yield f"{place}.{name}: {'required' if sent else 'may be missing'}"
        for name in old.keys() & new.keys() & {"items", "contentSchema"}:
            yield from self._schema(f"{place}[]", old[name], new[name], sent=sent)

    def _resolved(self, document: Schema, schema: Schema) -> Schema:
        """The schema behind references; of `X | None`, the schema of X marked as nullable."""
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
        options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) != 1:
            return schema
        whole = self._resolved(document, options[0])
        return whole | {"nullable": len(options) < len(schema["anyOf"])}


def _named(operation: Schema) -> dict[str, Schema]:
    return {parameter["name"]: parameter for parameter in operation.get("parameters", ())}


def _kinds(schema: Schema) -> set[str]:
    parts = [schema, *schema.get("anyOf", ())]
    kinds = {part["type"] for part in parts if "type" in part}
    return kinds | ({"null"} if schema.get("nullable") else set())


def _first(content: Schema, names: tuple[str, ...]) -> Schema:
    return next((content[name] for name in names if name in content), {})


def _values(place: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("enum"), new.get("enum")
    if before and after:
        for value in before:
            if value not in after:
                yield f"{place}: {value!r} is gone"
    if old.get("format") != new.get("format"):
        yield f"{place}: has the format {new.get('format')} now"


def _bounds(place: str, old: Schema, new: Schema) -> Iterator[str]:
    for names, sign in ((UPPER, 1), (LOWER, -1)):
        for name in names:
            if name in new and (name not in old or sign * new[name] < sign * old[name]):
                yield f"{place}: {name} is {new[name]} now"
    if new.get("pattern") not in (None, old.get("pattern")):
        yield f"{place}: has another pattern"
    if "enum" in new and "enum" not in old:
        yield f"{place}: takes only some values"
