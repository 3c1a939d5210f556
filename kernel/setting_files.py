"""The mistakes in a `.env` file: a line for each, with the number of its line and never a value.

python-dotenv skips a line that it cannot read, and pydantic-settings ignores names that it does not
know: a misspelt setting would silently have its default.
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
UNKNOWN = "{} is not a setting: {}"


class EnvFile:
    """The file from which settings of these classes are read; it may be missing."""

    def __init__(self, path: Path, kinds: Sequence[type[BaseSettings]]) -> None:
        self._path, self._kinds = path, kinds

    def mistakes(self) -> Iterator[str]:
        """A line for each mistake that pydantic-settings does not report."""
        prefixes = tuple(
            prefix.upper() for kind in self._kinds if (prefix := kind.model_config["env_prefix"])
        )
        names = {name for kind in self._kinds for name in _names_of(kind)}
        for number, binding in self._bindings:
            name = (binding.key or "").upper()
            if binding.error:
                yield self._line(number, UNREADABLE)
            elif name.startswith(prefixes) and not _is_known(name, names):
                close = get_close_matches(name, names, 1, cutoff=0.8)
                hint = f"did you mean {close[0]}?" if close else "remove it, or correct its name"
                yield self._line(number, UNKNOWN.format(name, hint))
            elif name in names and binding.value is None:
                yield self._line(number, NO_VALUE.format(name, name))

    def located(self, mistakes: Iterable[str]) -> Iterator[str]:
        """The mistakes that settings report, each with the line of its variable in the file."""
        for line in "\n".join(mistakes).splitlines():
            variable = line.partition(":")[0].partition(".")[0]
            yield f"{line}{self.place_of(variable)}\n"

    def place_of(self, variable: str) -> str:
        """The file and line of the variable, in parentheses; empty if the environment has it."""
        if variable in {name.upper() for name in os.environ}:
            return ""
        lines = [
            number for number, binding in self._bindings if (binding.key or "").upper() == variable
        ]
        return f" ({self._path.name}, line {lines[-1]})" if lines else ""

    @cached_property
    def _bindings(self) -> list[tuple[int, Binding]]:
        """The variables in the file, with the numbers of their lines."""
        logging.getLogger("dotenv").setLevel(logging.ERROR)  # its warnings repeat `mistakes`
        if not self._path.is_file():
            return []
        try:
            with self._path.open(encoding="utf-8") as file:
                return [(_line_of(binding), binding) for binding in parse_stream(file)]
        except (UnicodeDecodeError, OSError):
            return []  # pydantic-settings reports it

    def _line(self, number: int, mistake: str) -> str:
        return f"{self._path.name}, line {number}: {mistake}\n"


def _line_of(binding: Binding) -> int:
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _names_of(kind: type[BaseSettings]) -> Iterator[str]:
    """The variables of a class of settings."""
    for field, info in kind.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        aliases = [choice for choice in choices if isinstance(choice, str)]
        names = aliases or [f"{kind.model_config['env_prefix']}{field}"]
        nested = kind.model_config["env_nested_delimiter"]
        yield from (name.upper() for name in names)
        yield from (f"{name}{nested}*".upper() for name in names if nested)


def _is_known(name: str, names: set[str]) -> bool:
    """Whether it is one of the names, or begins with one that ends in `*`."""
    prefixes = tuple(pattern[:-1] for pattern in names if pattern[-1] == "*")
    return name in names or name.startswith(prefixes)
