"""The settings of mail: its server, its sender, and the base URL of its links."""

import re
from email.headerregistry import Address
from typing import Annotated, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, SecretStr, model_validator
from pydantic_settings import BaseSettings

from kernel.safeguards import is_local

FORM = "should be a URL like smtps://user:password@smtp.example.com:465, percent-encoded"
OPTIONS = "may have one option, with smtp:// only: ?starttls=off"
IN_THE_CLEAR = "should not send a password in the clear: leave out starttls=off"
SENDER = "should be an address, like no-reply@example.com or Shop <no-reply@example.com>"
BASE = "should be the address of the pages that links lead to, like https://app.example.com"
# The base URL of links in development, if none is set.
LOCAL = "http://127.0.0.1:8000"
LOCAL_SENDER = Address(username="no-reply", domain="localhost")
# A name, of any letters, or an IPv6 address.
HOST = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63})*\.?|[0-9a-f:.]*:[0-9a-f:.]*")
NAMED = re.compile(r"(?P<name>[^<>]*?)\s*<(?P<address>[^<>]+)>")


class SmtpServer(NamedTuple):
    """The mail server, with implicit TLS, STARTTLS or no encryption."""

    host: str
    port: int
    user: str | None
    password: SecretStr | None
    is_tls: bool
    is_starttls: bool

    @classmethod
    def parse(cls, url: str) -> Self:
        """The server that a URL names. The ports are those of RFC 8314 §3.3 and RFC 6409 §3.1.

        Raises:
            ValueError: it is not such a URL; the message repeats nothing of it.
        """
        try:
            parts = urlsplit(url)
            port, options = parts.port, parse_qsl(parts.query, strict_parsing=bool(parts.query))
            user, password = map(_decoded, _login(parts.netloc))
        except ValueError:
            raise ValueError(FORM) from None
        host = parts.hostname or ""
        is_named = parts.scheme in {"smtp", "smtps"} and HOST.fullmatch(host) and port != 0
        if not is_named or parts.path.strip("/") or parts.fragment or not url.isprintable():
            raise ValueError(FORM)
        if (user is None) != (password is None) or "" in {user, password}:
            raise ValueError(FORM)
        is_tls, is_off = parts.scheme == "smtps", options == [("starttls", "off")]
        secret = None if password is None else SecretStr(password)
        if options and (is_tls or not is_off):
            raise ValueError(OPTIONS)
        if user is not None and is_off and not is_local(host):
            raise ValueError(IN_THE_CLEAR)
        return cls(
            host, port or (465 if is_tls else 587), user, secret, is_tls, not (is_tls or is_off)
        )


def _login(netloc: str) -> tuple[str | None, str | None]:
    login, at, _ = netloc.rpartition("@")
    user, colon, password = login.partition(":")
    return (user if at else None), (password if colon else None)


def _decoded(text: str | None) -> str | None:
    decoded = None if text is None else unquote(text, errors="strict")
    if decoded and not decoded.isprintable():  # RFC 4616 §2: NUL ends a name and a password
        raise ValueError
    return decoded


def parse_sender(text: str) -> Address:
    """The address that mails come from, with the name that they show.

    Raises:
        ValueError: it is not an address.
    """
    # Imported late: it loads a DNS resolver, and not every command reads this setting.
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415

    named = NAMED.fullmatch(text.strip())
    name, address = (named["name"].strip('" '), named["address"]) if named else ("", text.strip())
    try:
        ascii_email = validate_email(address, check_deliverability=False).ascii_email
    except EmailNotValidError:
        ascii_email = None
    # `email` would decode an encoded word, with the ends of lines in it.
    if ascii_email is None or not text.isprintable() or "=?" in text:
        raise ValueError(SENDER)
    return Address(name, addr_spec=ascii_email)


def _smtp_url(url: SecretStr) -> SecretStr:
    SmtpServer.parse(url.get_secret_value())
    return url


def _sender(text: str) -> str:
    parse_sender(text)
    return text


def _base(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_base = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_base = False
    is_plain = url.isprintable() and not re.search(r"""[\s<>"'\\?#]""", url)
    if not is_base or not is_plain or "@" in parts.netloc:
        raise ValueError(BASE)
    return url.rstrip("/")


class MailSettings(BaseSettings):
    """The fields about mail, a part of `Settings`."""

    smtp_url: Annotated[SecretStr, AfterValidator(_smtp_url)] | None = None
    mail_from: Annotated[str, AfterValidator(_sender)] | None = None
    public_url: Annotated[str, AfterValidator(_base)] | None = None

    @property
    def smtp_server(self) -> SmtpServer | None:
        """The server that mails are sent through, or None where they are kept (dev) or refused."""
        return SmtpServer.parse(self.smtp_url.get_secret_value()) if self.smtp_url else None

    @property
    def sender(self) -> Address:
        """The address that mails come from."""
        return parse_sender(self.mail_from) if self.mail_from else LOCAL_SENDER

    @property
    def link_base(self) -> str:
        """The base URL of the links in mails, without a slash at its end."""
        return self.public_url or LOCAL

    @model_validator(mode="after")
    def _require_sender_and_links(self) -> Self:
        needed = ("mail_from", "public_url") if self.smtp_url else ()
        missing = [f"APP_{name.upper()}" for name in needed if getattr(self, name) is None]
        if missing:
            lines = [f"{name} is required with APP_SMTP_URL" for name in missing]
            raise ValueError("\n".join(lines))
        return self
