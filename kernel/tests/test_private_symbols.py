"""What the kernel uses of libraries beyond their documentation, and which test tells of a change.

Documented is what a library's manual, API reference or release notes offer to its users. So these
are not in the table, though they may look as if: `SQLCompiler.positiontup` (SQLAlchemy's FAQ),
`Dialect.get_driver_connection`, `SessionTransaction.parent` and `Pool.recreate` (its reference),
`TypeAdapter.serializer` and `.validator`, `Response.raw_headers`, exit status 3 of uvicorn and
SQLModel's `AsyncSession` (release notes), ASGI's own keys in a scope. Files of other packages are
no symbols: test_docs and test_embedded tell of those.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import getsource, isclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    *("alembic", "asyncpg", "fastapi", "prometheus_client", "pydantic", "pydantic_core"),
    *("sqlalchemy", "sqlmodel", "starlette", "uvicorn"),
}


@dataclass(frozen=True)
class Row:
    """One thing that a release could change: its `names` are used in `files`, for a reason; when
    one of them changes, one of the `tests` turns red."""

    symbol: str
    names: tuple[str, ...]
    files: tuple[str, ...]
    why: str
    tests: tuple[str, ...]


PLANNED = "test_plan.py::test_the_services_own_operations_go_the_short_way"
COUNTED = "test_plan.py::test_a_request_costs_about_so_many_calls"
CONTRACT = "kernel/testing/openapi.py::test_the_contract_is_written_down"
SAVEPOINT = "test_sessions.py::test_a_savepoint_undoes_all_that_was_done_in_it_in_whatever_way"
KEPT = "test_strangers.py::test_what_was_kept_touches_no_other_request"

SYMBOLS = [
    Row(
        "FastAPI's two exit stacks in the scope",
        ("fastapi_inner_astack", "fastapi_function_astack"),
        ("kernel/http/attempts.py",),
        "each attempt closes the dependencies that it has opened",
        ("test_retries.py::test_each_attempt_has_dependencies_of_its_own",),
    ),
    Row(
        "FastAPI's telemetry in the scope",
        (
            *("fastapi.telemetry", "tracer", "_route_selected"),
            "_validation_failed",
        ),
        ("kernel/fast/plan.py", "kernel/fast/routing.py"),
        "a trace says the same of a request on each way",
        ("test_routing.py::test_a_trace_says_the_same_on_each_way",),
    ),
    Row(
        "fastapi.routing.RouteContext",
        (
            *("iter_route_contexts", "RouteContext", "original_route", "_route_context"),
            *("original_router", "_routes_version", "_extract_endpoint_context"),
            *("effective_route_context", "starlette_route", "route", "fastapi"),
            "include_context",
        ),
        (
            "kernel/http/body_limits.py",
            *("kernel/fast/plan.py", "kernel/fast/planning.py", "kernel/fast/routing.py"),
            *("kernel/http/docs.py", "kernel/http/paths.py", "kernel/http/problems.py"),
            *("kernel/http/descriptions.py", "kernel/http/router.py"),
        ),
        "an operation as it is mounted, with the options of the routers around it; what is mounted",
        (
            *(PLANNED, COUNTED),
            "test_body_limits.py::test_a_limit_of_its_own_is_higher_than_the_services",
            "test_metrics.py::test_a_router_that_is_mounted_twice_has_two_routes",
            "test_routing.py::test_a_route_that_is_added_before_another_is_found",
        ),
    ),
    Row(
        "fastapi.routing.APIRoute: what it has read of its options and its endpoint",
        (
            *("dependant", "body_field", "response_field", "response_model", "methods", "app"),
            *("status_code", "path_regex", "path_format", "responses", "openapi_extra"),
            *("response_fields", "stream_item_type"),
        ),
        (
            *("kernel/fast/plan.py", "kernel/fast/planning.py", "kernel/fast/routing.py"),
            *("kernel/http/openapi.py", "kernel/http/problems.py"),
            *("kernel/http/router.py", "kernel/http/secrets.py", "kernel/http/signatures.py"),
            *("kernel/http/paths.py", "kernel/http/writes.py"),
        ),
        "plans, what OpenAPI says, the route's name in log lines",
        (
            *(PLANNED, COUNTED, CONTRACT),
            "test_logs.py::test_a_route_is_logged_by_its_template_and_never_by_its_values",
        ),
    ),
    Row(
        "fastapi.dependencies.models.Dependant",
        (
            *("path_params", "query_params", "header_params", "body_params", "dependencies"),
            *("Dependant", "call", "name", "request_param_name", "http_connection_param_name"),
            *("_is_async_gen_callable", "_is_coroutine_callable", "_is_gen_callable"),
        ),
        ("kernel/fast/planning.py", "kernel/http/openapi.py", "kernel/http/signatures.py"),
        "a plan's steps, and what an operation's signature tells OpenAPI",
        (PLANNED,),
    ),
    Row(
        "fastapi's ModelField",
        ("name", "alias", "field_info", "validate", "_type_adapter", "field_annotation_is_scalar"),
        (
            *("kernel/fast/plan.py", "kernel/fast/planning.py", "kernel/http/router.py"),
            *("kernel/fast/request_parameters.py", "kernel/http/signatures.py"),
        ),
        "how a parameter, a body and an answer are validated",
        (PLANNED, "test_routing.py::test_an_answer_is_made_what_its_operation_says"),
    ),
    Row(
        "fastapi.APIRouter.add_api_route",
        ("add_api_route",),
        ("kernel/http/docs.py", "kernel/http/router.py"),
        "`isolation` and `retries` are options of an operation",
        (
            "test_retries.py::test_how_often_it_is_tried_again_is_the_routers_or_the_operations_to_say",
        ),
    ),
    Row(
        "starlette.routing.Router",
        ("middleware_stack", "app", "get_route_path", "wrap_app_handling_exceptions"),
        ("kernel/fast/plan.py", "kernel/fast/routing.py", "kernel/http/application.py"),
        "the switchboard stands where the router's own middleware does, and errors are handled",
        (
            COUNTED,
            "test_routing.py::test_the_short_way_is_taken_behind_a_prefix",
            "test_plan.py::test_an_error_handler_may_read_the_body",
        ),
    ),
    Row(
        "Starlette's keys in the scope",
        ("path_params", "router", "route", "endpoint", "state"),
        (
            *("kernel/fast/routing.py", "kernel/http/attempts.py", "kernel/http/access_log.py"),
            *("kernel/http/answer_headers.py", "kernel/http/problems.py"),
            "kernel/http/websockets.py",
        ),
        "requests know their route on the short way too; an attempt begins with the first state",
        (
            "test_routing.py::test_a_scope_has_the_same_names_on_each_way",
            "test_retries.py::test_a_further_attempt_sees_the_state_that_a_middleware_has_set",
        ),
    ),
    Row(
        "starlette.routing.BaseRoute.matches, and what a mounted app is told",
        ("matches", "Match", "BaseRoute", "app_root_path"),
        (
            *("kernel/fast/routing.py", "kernel/http/body_limits.py", "kernel/http/exceptions.py"),
            "kernel/http/paths.py",
        ),
        "which methods a path has, for Allow; which routes are in others' way; what is mounted",
        (
            "test_metrics.py::test_the_route_of_a_mounted_app_begins_where_that_is_mounted",
            "test_body_limits.py::test_what_is_mounted_has_its_own_limit_or_its_routers",
            "test_errors.py::test_a_wrong_method_is_told_all_the_right_ones",
            "test_routing.py::test_the_first_route_that_matches_answers",
        ),
    ),
    Row(
        "uvicorn's HttpToolsProtocol, and what it has of a connection",
        (
            *("HttpToolsProtocol", "RequestResponseCycle", "data_received", "send_400_response"),
            *("on_message_begin", "on_headers_complete", "on_body", "on_message_complete"),
            *("on_response_complete", "handle_websocket_upgrade", "resume_writing", "headers"),
            *("url", "scope", "cycle", "response_started", "response_complete", "disconnected"),
            *("message_event", "waiting_for_100_continue", "flow", "read_paused", "pipeline"),
            *("connections", "tasks", "limit_concurrency", "timeout_keep_alive", "loaded_app"),
            *("default_headers", "get_http_version", "shutdown", "keep_alive"),
        ),
        ("kernel/http/server.py", "kernel/http/timeouts.py"),
        "limits and deadlines of a connection, which uvicorn has no options for",
        (
            "test_server.py::test_what_is_too_large_is_refused_at_once_and_costs_nothing",
            "test_server.py::test_who_sends_too_slowly_is_told_so_and_closed",
            "test_server.py::test_a_refusal_waits_for_the_answers_before_it",
            "test_server.py::test_more_than_the_concurrency_limit_is_told_to_come_again",
        ),
    ),
    Row(
        "sqlalchemy.util: the bridge between coroutines and plain functions",
        ("await_", "greenlet_spawn"),
        (
            *("kernel/data/engine.py", "kernel/data/execution.py", "kernel/data/orm.py"),
            *("kernel/data/unit_of_work.py", "kernel/data/versions.py"),
        ),
        "SQLAlchemy's session asks the unit of work, and the other way round",
        (SAVEPOINT,),
    ),
    Row(
        "sqlalchemy.dialects.postgresql.asyncpg.AsyncAdapt_asyncpg_connection",
        (
            *("AsyncAdapt_asyncpg_connection", "_transaction", "cursor", "_prepare"),
            "_prepared_statement_cache",
        ),
        ("kernel/data/engine.py", "kernel/data/unit_of_work.py"),
        "SQLAlchemy takes part in a transaction that has begun, its cursors are known, and it keeps"
        " no search prepared",
        (
            *(SAVEPOINT, KEPT),
            "test_executions.py::test_a_search_is_planned_for_its_own_text_alone",
        ),
    ),
    Row(
        "sqlalchemy.Connection and AsyncConnection, over a connection that is there",
        ("SyncConnection", "connection", "UnitConnection", "sync_connection"),
        ("kernel/data/links.py", "kernel/data/session.py"),
        "SQLAlchemy's, over one that the kernel has pooled; whoever asks for it may keep it",
        (SAVEPOINT, KEPT),
    ),
    Row(
        "sqlalchemy.ext.asyncio.AsyncSession's own session",
        ("_proxied", "sync_session"),
        ("kernel/data/session.py",),
        "after its end a session refuses every use",
        (
            "test_sessions.py::test_what_a_handler_was_lent_is_of_no_use_when_its_unit_of_work_has_ended",
        ),
    ),
    Row(
        "sqlalchemy.exc.DBAPIError.orig.__cause__",
        ("orig", "__cause__"),
        ("kernel/data/engine.py", "kernel/driver_errors.py"),
        "asyncpg's error; `driver_exception` raises for the dialect's own kind",
        ("test_errors.py::test_each_refusal_of_the_database_has_its_answer",),
    ),
    Row(
        "sqlalchemy's SQLCompiler: what it knows of a statement's columns and parameters",
        ("_result_columns", "binds", "params", "expanding", "literal_execute", "callable"),
        ("kernel/data/execution.py", "kernel/fast/parameters.py", "kernel/fast/statements.py"),
        "a statement of plain types runs on asyncpg itself",
        ("test_statements.py::test_a_query_gives_the_same_on_each_way",),
    ),
    Row(
        "asyncpg.transaction.Transaction",
        ("asyncpg.transaction", "Transaction", "_connection", "execute"),
        ("kernel/data/driver.py", "kernel/data/transactions.py"),
        "one manager of the transaction; COMMIT's answer, which comes by `execute`, is read",
        (
            SAVEPOINT,
            "test_errors.py::test_a_transaction_that_has_failed_is_no_success_though_its_error_was_caught",
        ),
    ),
    Row(
        "asyncpg.PostgresError's parts",
        (
            *("sqlstate", "table_name", "column_name", "constraint_name", "args"),
            "server_source_function",
        ),
        (
            *("kernel/data/sqlstate.py", "kernel/data/violations.py", "kernel/driver_errors.py"),
            "kernel/tracebacks.py",
        ),
        "the answer to a refusal, and what of it may be logged",
        (
            "test_errors.py::test_each_refusal_of_the_database_has_its_answer",
            "test_blame.py::test_a_column_that_the_handler_forgot_is_not_the_clients",
            "test_blame.py::test_a_sequence_that_is_behind_its_table_is_not_the_clients",
            "test_blame.py::test_a_row_that_is_given_twice_is_the_clients",
            "test_logs.py::test_the_detail_of_a_refusal_is_not_logged",
        ),
    ),
    Row(
        "the words of asyncpg's messages",
        (
            *("invalid input for query argument", "number of query arguments cannot exceed"),
            *("query argument", "value out of", "exponent is too", "closed"),
        ),
        (
            *("kernel/data/sqlstate.py", "kernel/driver_errors.py", "kernel/fast/statements.py"),
            "kernel/tracebacks.py",
        ),
        "whose mistake a value is that could not be sent; whether the connection is lost",
        (
            "test_blame.py::test_a_mistake_in_a_statement_is_the_services_own",
            "test_blame.py::test_more_values_than_a_statement_holds_are_the_clients",
            "test_blame.py::test_a_number_that_its_type_cannot_hold_is_the_clients",
            "test_retries.py::test_connections_that_died_idle_are_noticed_by_nobody",
        ),
    ),
    Row(
        "pydantic.BaseModel's slots",
        (
            *("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"),
            "__slots__",
        ),
        ("kernel/fast/rows.py",),
        "a record becomes a DTO without validation",
        ("test_rows.py::test_every_slot_of_an_instance_is_set",),
    ),
    Row(
        "pydantic.BaseModel.__pydantic_core_schema__",
        ("__pydantic_core_schema__", "custom_init", "model-fields", "model-field", "nullable"),
        ("kernel/fast/rows.py",),
        "a DTO is validated unless its schema is that of plain types",
        (
            "test_rows.py::test_a_dto_that_asks_for_more_than_plain_types_is_validated",
            "test_rows.py::test_a_dto_of_plain_types_is_not",
        ),
    ),
]
# What only the libraries have: wherever it is, it has to be in the table for that file.
WATCHED = {
    *("body_field", "body_params", "constraint_name", "dependant", "field_info", "header_params"),
    *("is_callable", "middleware_stack", "original_route", "path_format", "path_regex"),
    *("query_params", "request_param_name", "response_field", "response_fields", "use_cache"),
    *("http_connection_param_name", "stream_item_type"),
}
# Where a library's documented names are; `None` means all that is in the module.
DOCUMENTED: dict[str, set[str] | None] = {
    **dict.fromkeys(["alembic", "alembic.autogenerate", "alembic.autogenerate.api"]),
    **dict.fromkeys(["alembic.config", "alembic.util"]),
    **dict.fromkeys(["alembic.operations", "alembic.operations.ops", "alembic.runtime.migration"]),
    **dict.fromkeys(["alembic.script", "asyncpg", "asyncpg.exceptions", "fastapi"]),
    **dict.fromkeys(["fastapi.exceptions", "fastapi.openapi.docs", "fastapi.responses"]),
    "fastapi.middleware.cors": {"CORSMiddleware"},
    **dict.fromkeys(["fastapi.security", "fastapi.staticfiles", "fastapi.telemetry", "pydantic"]),
    **dict.fromkeys(["pydantic.fields", "pydantic_core", "sqlalchemy", "sqlalchemy.engine"]),
    **dict.fromkeys(["sqlalchemy.dialects", "sqlalchemy.dialects.postgresql", "sqlalchemy.exc"]),
    **dict.fromkeys(["sqlalchemy.ext.asyncio", "sqlalchemy.orm", "sqlalchemy.orm.exc"]),
    **dict.fromkeys(
        [
            "sqlalchemy.pool",
            "sqlalchemy.schema",
            "sqlalchemy.sql.visitors",
            "sqlalchemy.types",
            "sqlmodel",
            "starlette.exceptions",
            "starlette.requests",
        ]
    ),
    **dict.fromkeys(["starlette.responses", "starlette.types"]),
    "alembic.script.revision": {"MultipleHeads"},
    "fastapi.encoders": {"jsonable_encoder"},
    "fastapi.routing": {"APIRoute", "APIWebSocketRoute"},
    **dict.fromkeys(["prometheus_client", "prometheus_client.core"]),
    "prometheus_client.exposition": {"choose_encoder"},
    "prometheus_client.multiprocess": {"MultiProcessCollector", "mark_process_dead"},
    "prometheus_client.registry": {"Collector"},
    "pydantic.json_schema": {"JsonSchemaValue"},
    "sqlalchemy.orm.attributes": {"set_committed_value"},
    "sqlmodel.ext.asyncio.session": {"AsyncSession"},
    "starlette.convertors": {
        *("Convertor", "PathConvertor", "StringConvertor", "register_url_convertor"),
    },
    "starlette.routing": {"Host", "Mount", "Route", "WebSocketRoute"},
    "starlette.websockets": {"WebSocketDisconnected"},
}
# Private attributes of our own, used on another instance.
OWN = {"_of_slices"}
# ASGI's specification, HTTP connection scope.
ASGI = {
    *("app", "asgi", "client", "extensions", "headers", "http_version", "method", "path"),
    *("query_string", "raw_path", "root_path", "scheme", "server", "subprotocols", "type"),
}


def runtime() -> list[Path]:
    """The sources of the kernel, without its tests. What a team uses is its own business."""
    paths = [*(ROOT / "kernel").rglob("*.py"), ROOT / "migrations/env.py"]
    tests = {"tests", "testing"}
    ours = [path for path in paths if not tests & set(path.parts) and path.name[:5] != "test_"]
    return sorted(ours)


def private_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each name of a library's that its documentation does not have, and its line."""
    for node in ast.walk(tree):
        for name in (*hidden_imports(node), *hidden_keys(node), *hidden_attributes(node)):
            yield getattr(node, "lineno", 0), name


def hidden_imports(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (each.name for each in names if is_hidden(each.name, None))
        case ast.ImportFrom(module=str(module), names=names, level=0):
            yield from (each.name for each in names if is_hidden(module, each.name))


def hidden_keys(node: ast.AST) -> Iterator[str]:
    """Keys of a scope that are not ASGI's."""
    match node:
        case ast.Subscript(value=owner, slice=ast.Constant(value=str(key))):
            if is_scope(owner) and key not in ASGI:
                yield key
        case ast.Call(func=ast.Attribute(value=owner), args=[ast.Constant(value=str(key)), *_]):
            if is_scope(owner) and key not in ASGI:
                yield key
        case ast.Constant(value=str(key)):
            if key.startswith(("fastapi.", "fastapi_")) and key != "fastapi_offline":
                yield key


def hidden_attributes(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Attribute(value=owner, attr=name):
            is_own = ast.unparse(owner) in {"self", "cls", "super()"}
            if name in WATCHED or is_of_pydantic(name) or (is_private(name) and not is_own):
                yield name
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
            if is_private(name):
                yield name
        case ast.Constant(value=str(name)):
            if name in WATCHED or is_of_pydantic(name):
                yield name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in OWN


def is_of_pydantic(name: str) -> bool:
    return name.startswith("__pydantic_")


def is_scope(owner: ast.expr) -> bool:
    return ast.unparse(owner).split(".")[-1] in {"scope", "_scope"}


def is_hidden(module: str, name: str | None) -> bool:
    """Whether an import from a library is of something that is not documented."""
    if module.partition(".")[0] not in LIBRARIES:
        return False
    if module not in DOCUMENTED or (name and is_private(name)):
        return f"{module}.{name}" not in DOCUMENTED
    names = DOCUMENTED[module]
    return names is not None and name not in names


def inherited_uses(cls: type, tree: ast.AST) -> set[str]:
    """The private names that a class of ours has from a library's and uses on itself."""
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]
    theirs = {
        name for base in bases for name in re.findall(r"\bself\.(_[a-z]\w*)", getsource(base))
    }
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "cls", "super()"}
        if node.attr in theirs
    }


def untold(path: Path) -> list[str]:
    """What a file uses and the table does not have for it."""
    place = str(path.relative_to(ROOT))
    told = {name for row in SYMBOLS if place in row.files for name in row.names}
    return [f"{place}:{n} {name}" for n, name in private_uses(parsed(path)) if name not in told]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def words(tree: ast.AST) -> Iterator[str]:
    """All names and texts of a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word):
                yield word
            case ast.Constant(value=str(word)) | ast.FunctionDef(name=word):
                yield word
            case ast.AsyncFunctionDef(name=word) | ast.ClassDef(name=word):
                yield word
            case ast.AnnAssign(target=ast.Name(id=word)) | ast.keyword(arg=str(word)):
                yield word


def test_the_table_has_22_rows_at_most():
    assert len({row.symbol for row in SYMBOLS}) == len(SYMBOLS) <= 22


@pytest.mark.parametrize("path", runtime(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_file_uses_beyond_the_documentation_is_in_the_table(path):
    assert untold(path) == []


def test_what_a_class_uses_of_a_librarys_private_attributes_is_in_the_table():
    found = set()
    for path in runtime():
        if path.parts[-3:-1] in {("kernel", "data"), ("kernel", "http")}:
            module = import_module(f"kernel.{path.parts[-2]}.{path.stem}")
            for cls in filter(isclass, vars(module).values()):
                if cls.__module__ == module.__name__:
                    found |= inherited_uses(cls, parsed(path))
    assert found <= {name for row in SYMBOLS for name in row.names}
    assert {"_connection", "_proxied"} <= found


@pytest.mark.parametrize("row", SYMBOLS, ids=lambda row: row.symbol)
def test_a_row_names_symbols_files_and_tests_that_are_there(row):
    """Each name is used in a file, each file uses one of the names, each test is there."""
    texts = {file: "\n".join(words(parsed(ROOT / file))) for file in row.files}
    assert [name for name in row.names if not any(name in text for text in texts.values())] == []
    assert [file for file, text in texts.items() if not any(n in text for n in row.names)] == []
    for test in row.tests:
        file, name = test.split("::")
        place = ROOT / "kernel/tests" / file
        body = parsed(place if place.exists() else ROOT / file).body
        assert name in [getattr(node, "name", None) for node in body]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("session._flushing", "_flushing"),
        ("request.app.state.engine._dialect.name", "_dialect"),
        ("import fastapi._compat", "fastapi._compat"),
        ("from fastapi._compat import ModelField", "ModelField"),
        ("from fastapi.routing import _prepare_response_content", "_prepare_response_content"),
        ("from fastapi.routing import iter_route_contexts", "iter_route_contexts"),
        ("from fastapi.dependencies.utils import solve_dependencies", "solve_dependencies"),
        ("from sqlalchemy.util import greenlet_spawn", "greenlet_spawn"),
        ("import asyncpg.protocol", "asyncpg.protocol"),
        ("from starlette import _utils", "_utils"),
        ('getattr(session, "_flushing", None)', "_flushing"),
        ('STACK = "fastapi_middleware_astack"', "fastapi_middleware_astack"),
        ('request.scope.get("fastapi")', "fastapi"),
        ('scope["route"]', "route"),
        ("route.dependant", "dependant"),
        ('getattr(route, "path_regex")', "path_regex"),
        ("model.__pydantic_validator__", "__pydantic_validator__"),
    ],
)
def test_a_planted_use_is_seen(source, name):
    assert name in [found for _, found in private_uses(ast.parse(source))]


@pytest.mark.parametrize(
    "source",
    [
        "self._held",
        "super()._held",
        "row.__dict__",
        "from fastapi import APIRouter",
        "from fastapi.routing import APIRoute",
        "from sqlalchemy.dialects.postgresql import insert",
        "from kernel.data.engine import _raw",
        'scope["path"]',
        "scope[HEADER_NAMES]",
    ],
)
def test_a_documented_use_is_let_through(source):
    assert [*private_uses(ast.parse(source))] == []
