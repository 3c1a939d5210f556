"""Keyset pages: the deepest costs what the first costs, and no row is skipped or shown twice.

A cursor is the last row's place in the order, signed. The next page starts behind that place, so
rows that come or go in the meantime move nothing (Markus Winand, "No Offset").
"""

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import Integer, Select, bindparam, tuple_

from kernel.context import current_context
from kernel.data.snapshots import Rows
from kernel.errors import Unprocessable

M = TypeVar("M", bound=BaseModel)


class Page(BaseModel, Generic[M]):
    """One page, and the cursor of the next one, or null on the last."""

    items: list[M]
    next_cursor: str | None


class Pager:
    """What the client asked for: `limit` rows behind `cursor`."""

    def __init__(
        self, limit: int, cursor: str | None, keys: Sequence[bytes], scope: Mapping[str, Any]
    ) -> None:
        self.limit = limit
        self.cursor = cursor
        self._keys = keys  # the first signs
        self._scope = scope

    async def fetch(
        self,
        rows: Rows,
        model: type[M],
        statement: Select[*tuple[Any, ...]],
        order: str,
        /,
        **values: Any,
    ) -> Page[M]:
        """The page of `statement`'s rows in `order`: a selected column that is never null, or its
        name behind a minus for descending. Equal values are ordered by id.

        Raises:
            Unprocessable: the cursor is not one that this order gave out.
        """
        place = self._open(order)
        query = _keyset(statement, order, bool(place))
        found = await rows.all(model, query, limit=self.limit + 1, **place, **values)
        items = found[: self.limit]
        cursor = self._seal(order, items[-1]) if len(found) > self.limit else None
        if cursor:
            self._link(cursor)
        return _page_of(model)(items=items, next_cursor=cursor)

    def _open(self, order: str) -> dict[str, Any]:
        if self.cursor is None:
            return {}
        try:
            sealed = base64.b64decode(self.cursor.encode(), b"-_", validate=True)
            text, signature = sealed[:-16], sealed[-16:]
            if not any(hmac.compare_digest(signature, self._sign(text, k)) for k in self._keys):
                raise ValueError
            given_order, key, row_id = json.loads(text)
            if given_order != order:
                raise ValueError
        except ValueError:
            raise Unprocessable("the cursor is not valid for this list") from None
        return {"after_key": _native(key), "after_id": row_id}

    def _seal(self, order: str, row: Any) -> str:
        key = getattr(row, order.lstrip("-"))
        if isinstance(key, datetime):
            key = {"time": key.isoformat()}
        text = to_json([order, key, row.id])
        return base64.urlsafe_b64encode(text + self._sign(text, self._keys[0])).decode()

    def _sign(self, text: bytes, key: bytes) -> bytes:
        return hmac.digest(key, self._scope["path"].encode() + text, "sha256")[:16]

    def _link(self, cursor: str) -> None:
        # RFC 8288; relative, because the Host header is the client's word.
        asked = quote(self._scope["query_string"], safe="=&+%").split("&")
        query = [part for part in asked if part and not part.startswith("cursor=")]
        url = f"{self._scope['path']}?{'&'.join([*query, f'cursor={cursor}'])}"
        if context := current_context():
            context.link = f'<{url}>; rel="next"'


@cache
def _page_of(model: type[M]) -> type[Page[M]]:
    return Page[model]  # type: ignore[valid-type]  # known at run time only


def _native(key: Any) -> Any:
    return datetime.fromisoformat(key["time"]) if isinstance(key, dict) else key


@cache
def _keyset(
    statement: Select[*tuple[Any, ...]], order: str, after: bool
) -> Select[*tuple[Any, ...]]:
    columns = statement.selected_columns
    key, row_id = columns[order.lstrip("-")], columns["id"]
    place = tuple_(key, row_id)
    behind = tuple_(
        bindparam("after_key", type_=key.type), bindparam("after_id", type_=row_id.type)
    )
    if order.startswith("-"):
        statement = statement.order_by(key.desc(), row_id.desc())
        beyond = place < behind
    else:
        statement = statement.order_by(key, row_id)
        beyond = place > behind
    return (statement.where(beyond) if after else statement).limit(
        bindparam("limit", type_=Integer)
    )


def like(text: str | None) -> str | None:
    """The ILIKE pattern for "contains this text" (PostgreSQL manual §9.7.1)."""
    return None if text is None else "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"
