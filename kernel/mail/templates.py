"""What a mail says, as files in the slice that sends it: `welcome.txt` and, if it is there,
`welcome.html`.

The text's first line is the subject, `Subject: Welcome, $name`, and the second one is blank. Values
stand for `$name` or `${name}` (Python's `string.Template`; `$$` is a dollar), and in the HTML they
are escaped, also within the quotes of an attribute.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

SUBJECT = re.compile(r"Subject:[ \t]*(?P<subject>\S[^\n]*)\n[ \t]*\n(?P<text>.*\S.*)", re.DOTALL)
# What ends a line somewhere, or is no character: in a subject it would begin another header.
NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
HEAD = "{} should begin with a line `Subject: …`, a blank line, and then its text"


@dataclass(frozen=True)
class Content:
    """What a mail says, with its values."""

    subject: str
    text: str
    html: str | None


@dataclass(frozen=True)
class Files:
    """A mail's templates, as its files have them."""

    subject: Template
    text: Template
    html: Template | None

    @classmethod
    def read(cls, text_file: Path) -> "Files":
        """The templates of `welcome.txt`, and of `welcome.html` beside it.

        Raises:
            TypeError: one is not as it should be.
        """
        html_file = text_file.with_suffix(".html")
        if not text_file.is_file():
            raise TypeError(f"there is no {text_file.name} beside the module of its mail")
        found = SUBJECT.fullmatch(text_file.read_text(encoding="utf-8"))
        if found is None:
            raise TypeError(HEAD.format(text_file.name))
        html = html_file.read_text(encoding="utf-8") if html_file.is_file() else None
        templates = cls(
            Template(found["subject"]), Template(found["text"]), Template(html) if html else None
        )
        for name, template in templates.named(text_file):
            if not template.is_valid():
                raise TypeError(f"{name} has a $ that begins no name: a dollar is $$")
        return templates

    def check(self, text_file: Path, names: set[str]) -> None:
        """Whether the values that the mail has, and those that its files need, are the same.

        Raises:
            TypeError: they are not.
        """
        needed: set[str] = set()
        for file, template in self.named(text_file):
            own = set(template.get_identifiers())
            if unknown := sorted(own - names):
                raise TypeError(f"{file} needs ${unknown[0]}, which is no field of its mail")
            needed |= own
        if idle := sorted(names - needed):
            raise TypeError(f"the field {idle[0]} of the mail is in none of its files")

    def render(self, values: Mapping[str, object]) -> Content:
        """The mail with these values."""
        texts = {name: str(value) for name, value in values.items()}
        escaped = {name: escape(text) for name, text in texts.items()}
        subject = NOT_IN_A_LINE.sub(" ", self.subject.substitute(texts))
        html = self.html.substitute(escaped) if self.html else None
        return Content(subject.strip(), self.text.substitute(texts), html)

    def named(self, text_file: Path) -> Iterator[tuple[str, Template]]:
        """Each, with the name of its file."""
        yield text_file.name, self.subject
        yield text_file.name, self.text
        if self.html:
            yield text_file.with_suffix(".html").name, self.html
