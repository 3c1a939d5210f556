"""The reasons in a migration for which an unsafe step is accepted: `# accepted: …`."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

ACCEPTED = re.compile(r"#\s*accepted:.*[^\W\d_]")  # a reason has at least a letter


class Reasons:
    """A reason counts for the statement that it stands on, or directly above."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines()
        nodes = ast.walk(ast.parse(source))
        self._statements = [each for each in nodes if isinstance(each, ast.stmt)]
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = (token for token in tokens if token.type == tokenize.COMMENT)
        self._accepted = {each.start[0] for each in comments if ACCEPTED.match(each.string)}

    def at(self, line: int) -> bool:
        """Whether the innermost statement around a line has a reason."""
        around = [each for each in self._statements if each.lineno <= line <= _end(each)]
        if not around:
            return False
        innermost = max(around, key=lambda each: each.lineno)
        return not self._accepted.isdisjoint(self._places(innermost))

    def _places(self, statement: ast.stmt) -> Iterator[int]:
        body: list[ast.stmt] = getattr(statement, "body", [])
        # Between the head of a block and its body stands what is said of the body.
        end = body[0].lineno - 1 if body else _end(statement)
        for line in range(statement.lineno, end + 1):
            if not body or not self._is_comment(line):
                yield line
        above = statement.lineno - 1
        while above and self._is_comment(above):
            yield above
            above -= 1

    def _is_comment(self, line: int) -> bool:
        return self._lines[line - 1].lstrip().startswith("#")


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno
