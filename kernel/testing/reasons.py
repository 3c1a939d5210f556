"""Comments in a migration that accept an unsafe step, with a reason: `# accepted: …`."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

ACCEPTED = re.compile(r"#\s*accepted:.*[^\W\d_]")  # a reason has at least a letter


class Reasons:
    """A reason accepts the statement in whose lines, or directly above which, it stands."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines()
        nodes = ast.walk(ast.parse(source))
        self._statements = [node for node in nodes if isinstance(node, ast.stmt)]
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = (token for token in tokens if token.type == tokenize.COMMENT)
        self._accepted = {token.start[0] for token in comments if ACCEPTED.match(token.string)}

    def at(self, line: int) -> bool:
        """Whether the innermost statement around a line has a reason."""
        enclosing = [stmt for stmt in self._statements if stmt.lineno <= line <= _end(stmt)]
        if not enclosing:
            return False
        innermost = max(enclosing, key=lambda stmt: stmt.lineno)
        return not self._accepted.isdisjoint(self._lines_of_reason(innermost))

    def _lines_of_reason(self, statement: ast.stmt) -> Iterator[int]:
        """The lines where a reason for the statement may stand."""
        body: list[ast.stmt] = getattr(statement, "body", [])
        # A comment between the head of a block and its body is about the body.
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
