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
    message["Subject"] = content.subject.replace(ENCODED_WORD, "= ?")
    message["Date"] = datetime.now(UTC)
    # The same in each attempt, so that a mail that comes twice is shown once (RFC 5322 §3.6.4).
    message["Message-ID"] = f"<{message_id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # no out-of-office replies (RFC 3834 §5)
    message.set_content(content.text, cte="quoted-printable")
    if content.html is not None:
        message.add_alternative(content.html, subtype="html", cte="quoted-printable")
    return message


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
