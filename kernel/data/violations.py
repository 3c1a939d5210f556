"""Turns the violation of a constraint into an error response, which names the fields."""

import re
from itertools import chain
from typing import Any

from sqlalchemy import Constraint, Index, Table
from sqlmodel import SQLModel

from kernel.driver_errors import statement_of
from kernel.errors import Conflict, ServiceError, Unprocessable

OUT_OF_RANGE = "a value is out of range"
TRY_AGAIN = "somebody else changed the same data; try again"

# By SQLSTATE (PostgreSQL manual, appendix A).
ANSWERS: dict[str, tuple[type[ServiceError], str]] = {
    "23505": (Conflict, "{fields} is already taken"),
    "23503": (Conflict, "{fields} refers to a row that is missing, or is still referred to"),
    "23P01": (Conflict, "{fields} overlaps with another row"),
    "23502": (Unprocessable, "{fields} is required"),
    "23514": (Unprocessable, "{fields} is not allowed"),
    "54000": (Unprocessable, OUT_OF_RANGE),
    "40001": (Conflict, TRY_AGAIN),
    "40P01": (Conflict, TRY_AGAIN),
    "55P03": (Conflict, TRY_AGAIN),
}
# Serialization failure, deadlock, lock not available: the same request may succeed later.
CONTENTION = {"40001", "40P01", "55P03"}
NOT_NULL_VIOLATION, UNIQUE_VIOLATION, CHECK_VIOLATION = "23502", "23505", "23514"
FOREIGN_KEY_VIOLATION = "23503"
INSERTED_COLUMNS = re.compile(r"\s*insert\s+into\s+[^()]+\(([^)]*)\)", re.IGNORECASE)
# The operation of a statement, and its table.
CHANGE = re.compile(
    r'\s*(insert\s+into|update|delete\s+from)\s+(?:only\s+)?(?:"?\w+"?\.)?"?(\w+)', re.IGNORECASE
)
WORD = re.compile(r"\w+")


def refusal(error: BaseException, code: str, inputs: frozenset[str] | None) -> ServiceError | None:
    """The error response for a SQLSTATE in ANSWERS, or None if it is the code's mistake. `inputs`
    are the fields that the client may send, None if they are unknown."""
    kind, message = ANSWERS[code]
    table = SQLModel.metadata.tables.get(getattr(error, "table_name", None) or "")
    fields = _fields(error, table)
    is_sent = inputs is None or bool(inputs.intersection(fields) if fields else inputs)
    if code == NOT_NULL_VIOLATION and not is_sent:
        return None
    if code == CHECK_VIOLATION and not inputs and inputs is not None:
        return None  # the client can send nothing that the constraint could be about
    if code == UNIQUE_VIOLATION and table is not None and _is_generated_key(table, fields, error):
        return None
    if code == FOREIGN_KEY_VIOLATION:
        message = _side_of_reference(error) or message
    headers = {"Retry-After": "1"} if code in CONTENTION else None
    extras: dict[str, Any] = {"fields": fields} if fields else {}
    if code == CHECK_VIOLATION:
        extras["constraint"] = getattr(error, "constraint_name", None)
    return kind(message.format(fields=_subject(fields)), headers=headers, **extras)


def _subject(fields: list[str]) -> str:
    match fields:
        case []:
            return "a value"
        case [field]:
            return field
    return f"the combination of {' and '.join(fields)}"


def _side_of_reference(error: BaseException) -> str | None:
    """The message for the side of a foreign key that was changed, if the statement shows it. For
    either side, PostgreSQL's error names only the referring table."""
    changed = CHANGE.match(statement_of(error) or "")
    referring = getattr(error, "table_name", None)
    if changed is None:
        return None
    is_referring = changed[2].lower() == referring
    if changed[1].lower().startswith("insert") or (changed[1].lower() == "update" and is_referring):
        return "{fields} refers to a row that is missing"
    return f"rows of {referring} still refer to it"


def _is_generated_key(table: Table, fields: list[str], error: BaseException) -> bool:
    """Whether the fields are the row's key and the statement lets the database generate it. Then
    the sequence is behind the table, which is no mistake of the client's."""
    inserted = INSERTED_COLUMNS.match(statement_of(error) or "")
    is_key = fields == [column.name for column in table.primary_key]
    return is_key and inserted is not None and not set(fields) & set(WORD.findall(inserted[1]))


def _fields(error: BaseException, table: Table | None) -> list[str]:
    """The columns of the violated constraint, in its order."""
    if column := getattr(error, "column_name", None):
        return [column]
    if table is None:
        return []
    name = getattr(error, "constraint_name", None)
    rules: list[Constraint | Index] = [*table.constraints, *table.indexes]
    columns = [getattr(rule, "columns", ()) for rule in rules if rule.name == name]
    return [column.name for column in chain.from_iterable(columns)]
