"""What is wrong with a `.env` file, in lines that name its place and never a value.

python-dotenv goes on behind a line that it cannot read, and pydantic-settings passes by what is no
setting: a typing error would be a default in silence.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

UNREADABLE = "cannot be read: write NAME=value, and end each quote"
NO_VALUE = "{} has no value: write {}=value"
UNKNOWN = "{} is no setting: {}"


class EnvFile:
    """The file from which settings of these kinds are read; it need not be there."""

    def __init__(self, path: Path, kinds: Sequence[type[BaseSettings]]) -> None:
        self._path, self._kinds = path, kinds

    def mistakes(self) -> Iterator[str]:
        """A line for each that settings do not tell of themselves."""
        prefixes = tuple(
            prefix.upper() for kind in self._kinds if (prefix := kind.model_config["env_prefix"])
        )
        known = {name for kind in self._kinds for name in _names_of(kind)}
        for number, binding in self._bindings:
            name = (binding.key or "").upper()
            if binding.error:
                yield self._told(number, UNREADABLE)
            elif name.startswith(prefixes) and not _is_known(name, known):
                close = get_close_matches(name, known, 1, cutoff=0.8)
                hint = f"did you mean {close[0]}?" if close else "take it out, or correct its name"
                yield self._told(number, UNKNOWN.format(name, hint))
            elif name in known and binding.value is None:
                yield self._told(number, NO_VALUE.format(name, name))

    def located(self, mistakes: Iterable[str]) -> Iterator[str]:
        """The lines that settings tell of themselves, with the places of their variables."""
        for line in "\n".join(mistakes).splitlines():
            variable = line.partition(":")[0].partition(".")[0]
            yield f"{line}{self.place_of(variable)}\n"

    def place_of(self, variable: str) -> str:
        """Where in the file the variable's value is, if that is the one which counts."""
        if variable in {name.upper() for name in os.environ}:
            return ""
        lines = [number for number, each in self._bindings if (each.key or "").upper() == variable]
        return f" ({self._path.name}, line {lines[-1]})" if lines else ""

    @cached_property
    def _bindings(self) -> list[tuple[int, Binding]]:
        """What it holds, with numbers of lines."""
        logging.getLogger("dotenv").setLevel(logging.ERROR)  # it warns of what is told here
        if not self._path.is_file():
            return []
        try:
            with self._path.open(encoding="utf-8") as file:
                return [(_line_of(each), each) for each in parse_stream(file)]
        except (UnicodeDecodeError, OSError):
            return []  # which the settings tell of

    def _told(self, number: int, what: str) -> str:
        return f"{self._path.name}, line {number}: {what}\n"


def _line_of(binding: Binding) -> int:
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _names_of(kind: type[BaseSettings]) -> Iterator[str]:
    """The variables of a class of settings."""
    for field, info in kind.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        own = [each for each in choices if isinstance(each, str)]
        names = own or [f"{kind.model_config['env_prefix']}{field}"]
        nested = kind.model_config["env_nested_delimiter"]
        yield from (name.upper() for name in names)
        yield from (f"{name}{nested}*".upper() for name in names if nested)


def _is_known(name: str, known: set[str]) -> bool:
    return name in known or any(each[-1] == "*" and name.startswith(each[:-1]) for each in known)
