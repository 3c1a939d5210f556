"""The rows that `fetch` returns: asyncpg's records, or SQLAlchemy's rows with the same methods."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, overload

import asyncpg


class Record(Protocol):
    """A row, whose values are read by name or by position; it iterates over its values (asyncpg's
    manual, "Record Objects"). If SQLAlchemy ran the query it is a `Row`, else asyncpg's own."""

    __slots__ = ()

    @overload
    def __getitem__(self, name: str, /) -> Any: ...
    @overload
    def __getitem__(self, place: int, /) -> Any: ...
    @overload
    def __getitem__(self, places: slice, /) -> tuple[Any, ...]: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __contains__(self, name: object, /) -> bool: ...
    @overload
    def get(self, name: str, /) -> Any: ...
    @overload
    def get(self, name: str, default: Any, /) -> Any: ...
    def keys(self) -> Iterator[str]: ...
    def values(self) -> Iterator[Any]: ...
    def items(self) -> Iterator[tuple[str, Any]]: ...


class Row(Record):
    """A row that SQLAlchemy has read, with the methods of asyncpg's records."""

    __slots__ = ("_names", "_places", "_values")

    def __init__(
        self, names: tuple[str, ...], places: dict[str, int], values: tuple[Any, ...]
    ) -> None:
        self._names, self._places, self._values = names, places, values

    def __getitem__(self, key: int | str | slice, /) -> Any:
        return self._values[self._places[key] if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __contains__(self, name: object, /) -> bool:
        return name in self._places

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Row | asyncpg.Record | tuple):
            return self._values == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return f"<Record {' '.join(f'{name}={value!r}' for name, value in self.items())}>"

    def get(self, key: str, default: Any = None, /) -> Any:
        place = self._places.get(key)
        return default if place is None else self._values[place]

    def keys(self) -> Iterator[str]:
        return iter(self._names)

    def values(self) -> Iterator[Any]:
        return iter(self._values)

    def items(self) -> Iterator[tuple[str, Any]]:
        return zip(self._names, self._values, strict=True)


def rows_of(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[Row]:
    """Make rows of these values, which are in the order of the names."""
    names = tuple(names)
    # Of two columns with one name the last counts, as in asyncpg's records.
    places = {name: place for place, name in enumerate(names)}
    return [Row(names, places, tuple(row)) for row in rows]
