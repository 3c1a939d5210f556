"""Keyset pages: the deepest costs what the first costs, and no row is skipped or shown twice.

A cursor is the signed place of the page's last row in the order. The next page starts after that
place, so rows that are inserted or deleted meanwhile shift nothing (Markus Winand, "No Offset").
"""

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, Generic, NoReturn, TypeVar
from unicodedata import normalize
from urllib.parse import quote

from pydantic import BaseModel
from pydantic_core import to_json
from sqlalchemy import Select

from kernel.context import current_context
from kernel.data.keysets import Keyset, Place, keyset_of
from kernel.data.refusals import LONG_KEY, ONE_PLACE
from kernel.data.snapshots import Rows
from kernel.errors import Unprocessable
from kernel.fast.columns import check_columns
from kernel.fast.rows import read

M = TypeVar("M", bound=BaseModel)
LONGEST_CURSOR = 4096  # characters; proxies take 8 KB of a URL
MAC_BYTES = 16


class Page(BaseModel, Generic[M]):
    """One page, and the cursor of the next one, or null on the last."""

    items: list[M]
    next_cursor: str | None


class Pager:
    """The page that the client asked for: `limit` rows after `cursor`.

    Cursors are signed with the first of the keys, and valid if signed with any of them.
    """

    def __init__(
        self, limit: int, cursor: str | None, keys: Sequence[bytes], scope: Mapping[str, Any]
    ) -> None:
        self.limit = limit
        self.cursor = cursor
        self._keys = keys
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
        """The page of `statement`'s rows in `order`: the names of selected columns, separated by
        commas, with a minus before those that descend. Rows that are equal in them are ordered by
        primary key, in the last column's direction. Nulls come last or, descending, first.

        Raises:
            Unprocessable: the cursor was not issued for this path, statement and order.
            TypeError: the statement cannot be paged, or not in this order.
            RuntimeError: two rows have one key, or a key is too long for a cursor.
        """
        keyset = keyset_of(statement, order)
        place = await self._open(rows, keyset, order, values)
        queries = [keyset.first] if place is None else keyset.behind(place)
        records: list[Any] = []
        for query in queries:
            bounds = query.values(place, self.limit + 1 - len(records))
            records += await rows.fetch(query.statement, **bounds, **values)
            if len(records) > self.limit:
                break
        check_columns(model, statement)
        items = read(model, keyset.bare(records[: self.limit]))
        return _page_of(model)(items=items, next_cursor=self._next(keyset, order, records))

    def _next(self, keyset: Keyset, order: str, records: Sequence[Any]) -> str | None:
        if len(records) <= self.limit:
            return None
        place, next_place = map(keyset.place, records[self.limit - 1 :])
        if place == next_place:
            raise RuntimeError(ONE_PLACE)
        cursor = self._seal(keyset, [order, None, place])
        if len(cursor) > LONGEST_CURSOR:
            cursor = self._seal(keyset, [order, _digest(place), keyset.key(place)])
        if len(cursor) > LONGEST_CURSOR:
            raise RuntimeError(LONG_KEY)
        self._link(cursor)
        return cursor

    async def _open(
        self, rows: Rows, keyset: Keyset, order: str, values: Mapping[str, Any]
    ) -> Place | None:
        """The place after which the page begins, or None for the first page."""
        if self.cursor is None:
            return None
        try:
            sealed = base64.b64decode(self.cursor.encode(), b"-_", validate=True)
        except ValueError:
            _refuse()
        text, mac = sealed[:-MAC_BYTES], sealed[-MAC_BYTES:]
        macs = [self._sign(key, keyset, text) for key in self._keys]
        if not any(hmac.compare_digest(mac, valid) for valid in macs):
            _refuse()
        cursor_order, digest, place = json.loads(text)
        if cursor_order != order:
            _refuse()
        if digest is not None:
            query = keyset.row(place)
            records = await rows.fetch(query.statement, **query.values(place, 1), **values)
            place = keyset.place(records[0]) if records else []
            if _digest(place) != digest:
                _refuse()  # the row was deleted, or has moved in the order
        return [*place]

    def _seal(self, keyset: Keyset, content: Sequence[Any]) -> str:
        text = to_json(content)
        return base64.urlsafe_b64encode(text + self._sign(self._keys[0], keyset, text)).decode()

    def _sign(self, key: bytes, keyset: Keyset, text: bytes) -> bytes:
        purpose = f"{self._scope['path']}\n{keyset.types}\n".encode()
        return hmac.digest(key, purpose + text, "sha256")[:MAC_BYTES]

    def _link(self, cursor: str) -> None:
        # RFC 8288. A relative URL, because the client chooses the Host header.
        pairs = quote(self._scope["query_string"], safe="=&+%").split("&")
        query = [part for part in pairs if part and not part.startswith("cursor=")]
        url = f"{self._scope['path']}?{'&'.join([*query, f'cursor={cursor}'])}"
        if context := current_context():
            context.link = f'<{url}>; rel="next"'


def _refuse() -> NoReturn:
    raise Unprocessable("the cursor is not valid for this list")


def _digest(place: Place) -> str:
    return sha256(to_json(place)).hexdigest()


@cache
def _page_of(model: type[M]) -> type[Page[M]]:
    return Page[model]  # type: ignore[valid-type]  # known at run time only


def like(text: str | None) -> str | None:
    """The ILIKE pattern for "contains this text" (PostgreSQL manual §9.7.1), in composed form
    (NFC), in which nearly all text is stored: "e" and a combining accent become one letter.

    For a text without three letters or digits in a row it is the pattern for "begins with": inside
    a text, `search_index` finds nothing shorter (PostgreSQL manual, pg_trgm), and a search for "a"
    would read every row.
    """
    if text is None:
        return None
    text = normalize("NFC", text)
    start = "%" if re.search(r"[^\W_]{3}", text) else ""
    return start + re.sub(r"([\\%_])", r"\\\1", text) + "%"
