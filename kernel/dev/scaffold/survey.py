"""Reads what the tree has already, from its source: slices, their tables, paths and names."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

METHODS = {"get", "post", "put", "patch", "delete"}


class Refusal(Exception):
    """A command cannot be done; the message, of one line, says why. Nothing is changed."""


@dataclass(frozen=True)
class TableOf:
    """A table, and the path of the POST that makes its rows, or an empty text."""

    name: str
    folder: str
    class_name: str
    path: str

    @property
    def singular(self) -> str:
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.class_name).lower()


@dataclass
class Survey:
    """Tables by name, names of classes and operations, and paths by folder, of all slices and the
    kernel."""

    tables: dict[str, TableOf] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)
    paths: dict[str, set[str]] = field(default_factory=dict)

    @property
    def roots(self) -> set[str]:
        """The first segment of each path."""
        return {path.split("/")[1] for paths in self.paths.values() for path in paths}


def survey(root: Path) -> Survey:
    """Read the models and the routes of every folder.

    Raises:
        Refusal: a file is not Python.
    """
    result = Survey()
    # Git leaves a folder without sources when a slice is of another branch.
    for folder in sorted({path.parent for path in (root / "features").glob("*/*.py")}):
        prefix, routes = _router(folder / "router.py")
        result.paths[folder.name] = {path for _, _, path in routes}
        result.operations |= {function for function, _, _ in routes}
        makes = any(route[1:] == ("post", prefix) for route in routes)
        for name, table in _models(folder / "models.py"):
            result.classes.add(name)
            if table:
                path = prefix if makes and prefix == f"/{table}" else ""
                result.tables[table] = TableOf(table, folder.name, name, path)
    result.classes |= _vocabulary(root / "kernel/__init__.pyi")
    for room in sorted((root / "kernel/data").glob("*.py")):
        for name, table in _models(room):
            if table:
                result.tables[table] = TableOf(table, "kernel", name, "")
    return result


def _vocabulary(stub: Path) -> set[str]:
    imports = [node for node in parsed(stub).body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names}


def parsed(path: Path) -> ast.Module:
    """The syntax tree of the file; an empty one if there is no file.

    Raises:
        Refusal: it is not Python.
    """
    try:
        return ast.parse(path.read_text() if path.exists() else "")
    except SyntaxError as error:
        raise Refusal(f"{path.name}:{error.lineno} of {path.parent.name} is not Python") from None


def _models(path: Path) -> Iterator[tuple[str, str]]:
    """Each class, with its table's name or an empty text."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ClassDef):
            table = ""
            for statement in node.body:
                match statement:
                    case ast.Assign([ast.Name("__tablename__")], ast.Constant(str(name))):
                        table = name
            yield node.name, table


def _router(path: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """The prefix, and each operation: function, method, path."""
    prefix, routes = "", []
    for node in ast.walk(parsed(path)):
        match node:
            case ast.keyword("prefix", ast.Constant(str(value))):
                prefix = value
            case ast.AsyncFunctionDef(name=name, decorator_list=decorators):
                routes += [(name, *route) for route in _routes(decorators)]
    return prefix, [(name, method, prefix + end) for name, method, end in routes]


def _routes(decorators: list[ast.expr]) -> Iterator[tuple[str, str]]:
    for decorator in decorators:
        match decorator:
            case ast.Call(ast.Attribute(attr=method), [ast.Constant(str(end)), *_]):
                if method in METHODS:
                    yield method, end
