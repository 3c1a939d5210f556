"""Rules for slices that no type checker knows, checked on their source and the OpenAPI document.

Each is about a mistake that would show late, and in another place; none is a matter of style.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts

from kernel.http.problems import PROBLEM_DETAILS
from kernel.http.router import BoundaryRoute
from kernel.settings import ROOT
from kernel.testing.failures import forms
from kernel.testing.walking import WALKS, Walk, reason_to_skip

PROBLEM: dict[str, Any] = PROBLEM_DETAILS.content["content"]
SHARED = "features.shared"
ANSWERS = (
    "an operation says what it answers: by its return type, `-> None` for nothing, or for other"
    ' content responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}'
)
SQL_CALLS = {"text", "exec", "execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval"}
SQL_WORDS = ("select ", "insert ", "update ", "delete ", "with ", "alter ", "drop ", "truncate ")


# A slice imports neither another slice nor the service that mounts it.


def packages(walk: Walk) -> list[str]:
    """The walked slices: `features.items`."""
    slices = {Path(hooks.file).parent.as_posix().replace("/", ".") for hooks in walk.hooks}
    return sorted(slices - {"tests"})


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package.replace(".", "/")).rglob("*.py"))


def test_no_slice_imports_another_one_or_the_service(walk: Walk) -> None:
    slices = packages(walk)
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}; what several slices need is the kernel's,"
        f" or belongs to {SHARED}"
        for slice_ in slices
        for path in sources(slice_)
        for line, name in imports(path.read_text(), path.relative_to(ROOT))
        if is_sideways(name, slice_, slices)
    ]
    assert wrong == []


def is_sideways(name: str, own: str, slices: Iterable[str]) -> bool:
    """Whether the imported name is of the service, or of another slice than `own`."""
    others = {*slices, "service"} - {own}
    return any(f"{name}.".startswith(f"{other}.") for other in others)


def imports(source: str, place: Path) -> Iterator[tuple[int, str]]:
    """Each import, absolute or relative, anywhere in the file: its line and full dotted name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                # One dot is the file's own package, each further one its parent.
                package = place.parts[: len(place.parts) - level] if level else ()
                base = ".".join([*package, *([module] if module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(function).split(".")[-1] in {"import_module", "__import__"}:
                    yield node.lineno, name


# SQL is never assembled from strings.


def assembled_sql(source: str) -> list[int]:
    """The lines where an f-string, `+`, `%`, format, join or replace makes SQL, or an argument of a
    call that runs SQL."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    suspects: list[ast.expr] = [
        c.args[0] for c in calls if ast.unparse(c.func).split(".")[-1] in SQL_CALLS
    ]
    suspects += [
        node for node in ast.walk(tree) if isinstance(node, ast.expr) and starts_like_sql(node)
    ]
    return sorted({node.lineno for node in suspects if is_assembled(node)})


def is_assembled(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr(values=values):
            return any(isinstance(value, ast.FormattedValue) for value in values)
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
    return False


def starts_like_sql(node: ast.AST) -> bool:
    constants = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    first = next((value for value in constants if isinstance(value, str)), "")
    return isinstance(node, ast.expr) and first.lstrip().lower().startswith(SQL_WORDS)


def test_no_sql_is_assembled_from_strings(walk: Walk) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} puts SQL together from strings: use a bind parameter"
        for package in packages(walk)
        for path in sources(package)
        for line in assembled_sql(path.read_text())
    ]
    assert wrong == []


# The OpenAPI document.


def gaps(document: dict[str, Any], forms: Sequence[dict[str, Any]] = (PROBLEM,)) -> list[str]:
    """What the document lacks about its operations, a line for each; errors have one of `forms`."""
    lines, seen = [], set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name, responses = operation.get("operationId"), operation["responses"]
            wrong = {
                "has no operationId of its own": not name or name in seen,
                "has no summary": not operation.get("summary"),
                "has not one tag": len(operation.get("tags", [])) != 1,
                "does not describe its success": not describes_success(responses),
                "does not declare its other errors": "default" not in responses,
                "has an error that is no Problem": not describes_errors(responses, forms),
            }
            seen.add(name)
            lines += [f"{method} {path} {gap}" for gap, is_there in wrong.items() if is_there]
    return lines


def describes_success(responses: dict[str, Any]) -> bool:
    successes = {status: answer for status, answer in responses.items() if status[0] == "2"}
    return bool(successes) and all(
        status == "204" or all(content.get("schema") for content in contents(answer))
        for status, answer in successes.items()
    )


def contents(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return list(answer.get("content", {"none": {}}).values())


def describes_errors(responses: dict[str, Any], forms: Sequence[dict[str, Any]]) -> bool:
    errors = [answer for status, answer in responses.items() if status[0] not in "123"]
    return all(error.get("content") in forms for error in errors)


def test_every_operation_is_described(walk: Walk) -> None:
    document = walk.app.openapi()
    test = test_every_operation_is_described
    skipped = [operation for operation in walk.operations if reason_to_skip(operation, test)]
    accepted = {f"{operation.method.lower()} {operation.path} " for operation in skipped}
    accepted |= {f"{place} does not describe its success" for place in without_answer(walk.app)}
    lines = gaps(document, forms(walk.app))
    assert [line for line in lines if not line.startswith(tuple(accepted))] == [], ANSWERS
    assert {"error", "message", "status", "title", "detail", "request_id"} <= set(
        document["components"]["schemas"]["Problem"]["properties"]
    )


def without_answer(app: FastAPI) -> Iterator[str]:
    """The operations whose endpoint is annotated with `-> None`: they have no body to describe."""
    for route in iter_route_contexts(app.routes):
        if route.endpoint and signature(route.endpoint, eval_str=True).return_annotation is None:
            yield from (f"{method.lower()} {route.path_format}" for method in route.methods or ())


def unmounted(app: FastAPI) -> list[str]:
    """The slices whose router the app does not include, so that no client and no walk calls it."""
    served = {
        getattr(route.endpoint, "__module__", "") for route in iter_route_contexts(app.routes)
    }
    routers = [path.relative_to(ROOT) for path in sorted(ROOT.glob("features/**/router.py"))]
    names = [".".join(path.with_suffix("").parts) for path in routers]
    # A router without operations need not be mounted: its module may hold a credential scheme.
    names = [name for name in names if getattr(import_module(name), "router", APIRouter()).routes]
    return [
        f"{name} is not mounted: app.include_router(…) in service.py"
        for name in names
        if name not in served
    ]


def test_every_slice_is_mounted(walk: Walk) -> None:
    assert unmounted(walk.app) == []


def test_every_slice_has_the_kernels_router(walk: Walk) -> None:
    wrong = [
        f"{route.endpoint.__module__}: {route.path_format} is of FastAPI's own APIRouter, without"
        " transactions, retries and errors of one form: from kernel import Router"
        for route in iter_route_contexts(walk.app.routes)
        if route.endpoint and route.endpoint.__module__.startswith(tuple(packages(walk)))
        # A WebSocket's route is FastAPI's; the kernel's Router has set `errors` on it.
        if not isinstance(route.original_route, BoundaryRoute)
        if not hasattr(route.original_route, "errors")
    ]
    assert wrong == []


# Hooks.


def test_each_hook_is_about_something_that_is_there(walk: Walk) -> None:
    assert walk.strays("SAMPLES", "BEFORE", "SKIPS") == []
    assert unknown_keys(walk) == []


def unknown_keys(walk: Walk) -> list[str]:
    """The entries of KEYS that name no parameter of a path."""
    names = {name for operation in walk.operations for name in operation.parameters("path")}
    return [
        f"{hooks.file}: KEYS names no parameter of a path: {name!r}"
        for hooks in walk.hooks
        for name in hooks.get("KEYS")
        if name not in names
    ]


def test_each_skip_has_its_reason(walk: Walk) -> None:
    assert [
        wrong for hooks in walk.hooks for wrong in unreasoned(hooks.file, hooks.get("SKIPS"))
    ] == []


def unreasoned(file: str, skips: dict[str, Any]) -> Iterator[str]:
    """The entries of SKIPS that give no reason, or name no walk."""
    walks = {*WALKS, *chain.from_iterable(map(names_of_tests, WALKS))}
    walks.add(test_every_operation_is_described.__name__)
    for operation, value in skips.items():
        reasons = value if isinstance(value, dict) else {"": value}
        for walk, reason in reasons.items():
            where = f"{file}: SKIPS of {operation!r}"
            if walk and walk not in walks:
                yield f"{where} names no walk: {walk!r}; they are {', '.join(WALKS)}, or a test's"
            if not isinstance(reason, str) or not reason.strip():
                yield f"{where} gives no reason"
        if not reasons:
            yield f"{file}: SKIPS of {operation!r} gives no reason"


def names_of_tests(walk: str) -> list[str]:
    module = import_module(f"kernel.testing.{walk}")
    return [name for name in vars(module) if name.startswith("test_")]
