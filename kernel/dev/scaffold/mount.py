"""The two lines of a slice in `service.py`."""

import re
from collections.abc import Iterator
from io import StringIO
from tokenize import NAME, generate_tokens

from kernel.dev.scaffold.survey import Refusal

IMPORT = re.compile("^from features", re.MULTILINE)
MOUNT = re.compile(r"^    app\.include_router\(.+\)\n", re.MULTILINE)


def names(text: str) -> Iterator[tuple[str, int]]:
    """Every name in the source with its line, but for attributes."""
    previous = ""
    for token in generate_tokens(StringIO(text.replace("features.", "")).readline):
        if token.type == NAME and previous != ".":
            yield token.string, token.start[0]
        previous = token.string


def mount(text: str, name: str) -> str:
    """`service.py` with the slice's import and its `include_router`.

    Both are in alphabetical order, so that branches seldom add lines at the same place.

    Raises:
        Refusal: it mounts no slice yet, so that there is no place to mount one.
    """
    imports, mounts = list(IMPORT.finditer(text)), list(MOUNT.finditer(text))
    if not imports or not mounts:
        raise Refusal("service.py mounts nothing: there is no place for another slice")
    imported, mounted = _lines(name)
    later = [line.start() for line in mounts if line[0] > mounted]
    first, place = imports[0].start(), later[0] if later else mounts[-1].end()
    return f"{text[:first]}{imported}{text[first:place]}{mounted}{text[place:]}"


def unmount(text: str, name: str) -> str:
    """`service.py` without the slice's two lines.

    Raises:
        Refusal: it has other lines for the slice, or uses it elsewhere.
    """
    lines = text.splitlines(keepends=True)
    if not {*_lines(name)} <= {*lines}:
        raise Refusal(f"service.py does not mount {name} with two lines of its own")
    rest = ["\n" if line in _lines(name) else line for line in lines]
    uses = sorted({line for word, line in names("".join(rest)) if word == name})
    if uses:
        places = ", ".join(f"service.py:{line}" for line in uses)
        raise Refusal(f"{name} is still needed by {places}")
    return "".join(line for line in lines if line not in _lines(name))


def _lines(name: str) -> tuple[str, str]:
    mounted = f"    app.include_router({name}.router)\n"
    return f"from features.{name} import router as {name}\n", mounted
