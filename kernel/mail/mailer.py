"""Who takes a message over: the mail server or, in development without one, a list."""

import asyncio
import logging
import ssl
from collections import deque
from email.message import EmailMessage
from socket import gethostname

from aiosmtplib import (
    SMTP,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from kernel.errors import ServiceError
from kernel.mail_settings import SmtpServer
from kernel.settings import Settings

# RFC 5321 §4.5.3.2 allows minutes for each step; whoever takes that long is asked again later.
STEP_SECONDS = 10.0
IN_ALL_SECONDS = 45.0
KEPT = 100
OFF = "this service sends no mail: APP_SMTP_URL is not set"
logger = logging.getLogger(__name__)


class NoMailServer(ServiceError):
    """The operator has named none (RFC 9110 §15.6.2)."""

    status = 501


class MailNotSent(Exception):
    """The mail server has not taken it, and may later; `reason` is its code, or an error's type."""

    def __init__(self, reason: int | str) -> None:
        super().__init__(f"the mail server has not taken it: {reason}")
        self.reason = reason


class MailRefused(MailNotSent):
    """The mail server will never take it: there is no such mailbox, say (RFC 5321 §4.2.1)."""


class Mailer:
    """Takes messages over; this one refuses them, outside development, until there is a server."""

    async def send(self, message: EmailMessage) -> None:  # noqa: ARG002  # those below need it
        """Hand it over.

        Raises:
            MailNotSent: it was not taken.
        """
        raise MailNotSent(OFF)


class SmtpMailer(Mailer):
    """Hands each message over to the server, on a connection of its own."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        is_clear = not (server.is_tls or server.is_starttls)
        # What the machine trusts, or the file that SSL_CERT_FILE names.
        self._context = None if is_clear else ssl.create_default_context()

    async def send(self, message: EmailMessage) -> None:
        """See `Mailer`."""
        is_taken = False
        try:
            async with asyncio.timeout(IN_ALL_SECONDS), self._connection() as connection:
                await connection.send_message(message)
                is_taken = True
        except (SMTPException, OSError) as error:  # their texts may repeat an address
            if is_taken:
                return  # and what has failed is to say goodbye
            failure = _failure(error)
            told = {"error": type(error).__qualname__, "reason": failure.reason}
            logger.warning("a mail was not sent", extra={"fields": told})
            raise failure from None

    def _connection(self) -> SMTP:
        server = self._server
        return SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password.get_secret_value() if server.password else None,
            use_tls=server.is_tls,
            start_tls=server.is_starttls,
            tls_context=self._context,
            timeout=STEP_SECONDS,
            local_hostname=gethostname(),  # to ask for its whole name may take a resolver's time
        )


def _failure(error: Exception) -> MailNotSent:
    """What has failed for good, and what may not: a server that lets nobody in is mended."""
    if isinstance(error, SMTPRecipientsRefused):
        code = error.recipients[0].code
        return (MailRefused if code >= 500 else MailNotSent)(code)
    if isinstance(error, SMTPDataError) and error.code >= 500:
        return MailRefused(error.code)
    if isinstance(error, SMTPNotSupported):
        return MailRefused("its address needs SMTPUTF8")
    return MailNotSent(
        error.code if isinstance(error, SMTPResponseException) else type(error).__qualname__
    )


class Outbox(Mailer):
    """Keeps the latest messages of this process, in development, and logs them."""

    def __init__(self) -> None:
        self.messages: deque[EmailMessage] = deque(maxlen=KEPT)

    async def send(self, message: EmailMessage) -> None:
        """Keep it."""
        self.messages.append(message)
        told = {"to": message["To"], "subject": message["Subject"], "text": text_of(message)}
        logger.info("a mail, kept at /mail and not sent", extra={"fields": told})


def text_of(message: EmailMessage, kind: str = "plain") -> str | None:
    """What it says, as text or as HTML."""
    part = message.get_body((kind,))
    return None if part is None else part.get_content()


def make_mailer(settings: Settings) -> Mailer:
    """The mailer that the settings ask for."""
    if server := settings.smtp_server:
        return SmtpMailer(server)
    if settings.env == "dev":
        return Outbox()
    logger.warning(OFF)
    return Mailer()
