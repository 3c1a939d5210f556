"""A mail as a message (RFC 5322): text and HTML, with the same Message-ID in each attempt."""

from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP

from email_validator import EmailNotValidError, validate_email
from pydantic import TypeAdapter

from kernel.data.models import ENCODED_WORD, Email
from kernel.mail.templates import Content

ADDRESS = TypeAdapter[str](Email)
NOT_ONE = "a mail goes to one e-mail address"
SUBJECT_MAX_CHARACTERS = 250
READABLE_MAX_CHARACTERS = 20_000


def normal_address(text: str) -> str:
    """The e-mail address, normalised as `Email` is.

    Raises:
        ValueError: the text is no e-mail address.
    """
    return ADDRESS.validate_python(text)


def compose(message_id: str, sender: Address, to: str, content: Content) -> EmailMessage:
    """The message. No value can inject a header: addresses are parsed, a subject is one line, and
    neither has an encoded word (RFC 2047), which `email` decodes, with the ends of lines in it."""
    message = EmailMessage(SMTP)
    message["From"] = sender
    message["To"] = _deliverable(to)
    message["Subject"] = _short(content.subject.replace(ENCODED_WORD, "= ?"))
    message["Date"] = datetime.now(UTC)
    # The same in each attempt, so that a mail that comes twice is shown once (RFC 5322 §3.6.4).
    message["Message-ID"] = f"<{message_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # no out-of-office replies (RFC 3834 §5)
    message.set_content(content.text, cte=_encoding(content.text))
    if content.html is not None:
        message.add_alternative(content.html, subtype="html", cte=_encoding(content.html))
    return message


def _short(subject: str) -> str:
    # Folding takes quadratic time: 5 s of the event loop for 10,000 characters, 10 ms for 250.
    is_long = len(subject) > SUBJECT_MAX_CHARACTERS
    return f"{subject[: SUBJECT_MAX_CHARACTERS - 1]}…" if is_long else subject


def _encoding(text: str) -> str:
    # quoted-printable can be read in the source, but takes 10 s for 1 MB of short lines; base64
    # 0.1 s.
    return "quoted-printable" if len(text) <= READABLE_MAX_CHARACTERS else "base64"


def _deliverable(address: str) -> Address:
    """The address with its domain in ASCII, which every server accepts (RFC 5891 §4.4); a local
    part that is not ASCII needs a server with SMTPUTF8."""
    try:
        checked = validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        raise ValueError(NOT_ONE) from None
    if ENCODED_WORD in address:
        raise ValueError(NOT_ONE)
    return Address(username=checked.local_part, domain=checked.ascii_domain)
