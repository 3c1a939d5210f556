"""The templates of a mail, as files in its slice: `welcome.txt` and, optionally, `welcome.html`.

The first line of the text is the subject, `Subject: Welcome, $name`, and the second one is blank.
Values replace `$name` or `${name}` (Python's `string.Template`; `$$` is a dollar sign). In the HTML
they are escaped, with quotes, so they may stand in a quoted attribute.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

SUBJECT = re.compile(r"Subject:[ \t]*(?P<subject>\S[^\n]*)\n[ \t]*\n(?P<text>.*\S.*)", re.DOTALL)
# Line ends, control characters and lone surrogates: in a subject they could begin another header.
NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
HEAD = "{} should begin with a line `Subject: …`, a blank line, and then its text"


@dataclass(frozen=True)
class Content:
    """A mail's subject and bodies, with its values in them."""

    subject: str
    text: str
    html: str | None


@dataclass(frozen=True)
class Files:
    """The templates of a mail, as read from its files."""

    subject: Template
    text: Template
    html: Template | None

    @classmethod
    def read(cls, text_file: Path) -> "Files":
        """The templates of `welcome.txt`, and of `welcome.html` beside it.

        Raises:
            TypeError: the text file is missing or has no subject line, or a `$` is not valid.
        """
        html_file = text_file.with_suffix(".html")
        if not text_file.is_file():
            raise TypeError(f"there is no {text_file.name} beside the module of its mail: add it")
        match = SUBJECT.fullmatch(text_file.read_text(encoding="utf-8-sig"))
        if match is None:
            raise TypeError(HEAD.format(text_file.name))
        html = html_file.read_text(encoding="utf-8-sig") if html_file.is_file() else None
        templates = cls(
            Template(match["subject"]), Template(match["text"]), Template(html) if html else None
        )
        for name, template in templates.named(text_file):
            if not template.is_valid():
                raise TypeError(f"{name} has a $ without a name: write $$ for a dollar sign")
        return templates

    def check(self, text_file: Path, names: set[str]) -> None:
        """Check that the mail's fields are the names in its templates.

        Raises:
            TypeError: a template uses a name that is no field, or none uses a field.
        """
        needed: set[str] = set()
        for file, template in self.named(text_file):
            identifiers = set(template.get_identifiers())
            if unknown := sorted(identifiers - names):
                raise TypeError(f"{file} needs ${unknown[0]}, which is no field of its mail")
            needed |= identifiers
        if unused := sorted(names - needed):
            raise TypeError(f"the field {unused[0]} of the mail is in none of its files: remove it")

    def render(self, values: Mapping[str, object]) -> Content:
        """The mail with these values."""
        texts = {name: str(value) for name, value in values.items()}
        escaped = {name: escape(text) for name, text in texts.items()}
        subject = NOT_IN_A_LINE.sub(" ", self.subject.substitute(texts))
        html = self.html.substitute(escaped) if self.html else None
        return Content(subject.strip(), self.text.substitute(texts), html)

    def named(self, text_file: Path) -> Iterator[tuple[str, Template]]:
        """Each template with the name of its file."""
        yield text_file.name, self.subject
        yield text_file.name, self.text
        if self.html:
            yield text_file.with_suffix(".html").name, self.html
