"""Mailers: they hand a message to the SMTP server or, in development without one, to a list."""

import asyncio
import logging
import ssl
from collections import deque
from email.message import EmailMessage
from socket import gethostname

from aiosmtplib import (
    SMTP,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from kernel.errors import ServiceError
from kernel.mail_settings import SmtpServer
from kernel.settings import Settings

# RFC 5321 §4.5.3.2 allows minutes for each step; a server that is so slow is tried again later.
STEP_SECONDS = 10.0
IN_ALL_SECONDS = 45.0
# Replies to MAIL, RCPT and DATA: RFC 4954 §6, and RFC 1870 §6.1.
LOGIN_FIRST, TOO_LARGE = 530, 552
KEPT = 100
OFF = "this service sends no mail: APP_SMTP_URL is not set"
logger = logging.getLogger(__name__)


class NoMailServer(ServiceError):
    """APP_SMTP_URL is not set, so no mail can be sent (501, RFC 9110 §15.6.2)."""

    status = 501


class MailNotSent(Exception):
    """The mail server did not accept it now, and may later; `reason` is its reply code, or the
    type of the error, or what the server lacks."""

    def __init__(self, reason: int | str) -> None:
        super().__init__(f"the mail was not sent: {reason}")
        self.reason = reason


class MailRefused(MailNotSent):
    """The mail server will never accept it, as of an unknown mailbox (RFC 5321 §4.2.1)."""


class Mailer:
    """The base of mailers; used itself outside development without APP_SMTP_URL: it refuses all."""

    async def send(self, message: EmailMessage) -> None:  # noqa: ARG002  # subclasses need it
        """Send the message.

        Raises:
            MailNotSent: it was not accepted; MailRefused, if it never will be.
        """
        raise MailNotSent(OFF)


class SmtpMailer(Mailer):
    """Sends each message to the SMTP server, on a new connection."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        is_clear = not (server.is_tls or server.is_starttls)
        # It trusts the system's certificates, or those of the file that SSL_CERT_FILE names.
        self._context = None if is_clear else ssl.create_default_context()

    async def send(self, message: EmailMessage) -> None:
        """See `Mailer`."""
        is_accepted = False
        try:
            async with asyncio.timeout(IN_ALL_SECONDS), self._connection() as connection:
                await _hand_over(message, connection)
                is_accepted = True
        except asyncio.CancelledError:
            if not is_accepted:
                raise
            # Only QUIT was cancelled: the job ends as done, or the mail would be sent twice.
        except (SMTPException, OSError) as error:  # their texts may repeat an address
            if is_accepted:
                return  # only QUIT has failed
            failure = _failure(error)
            fields = {"error": type(error).__qualname__, "reason": failure.reason}
            logger.warning("a mail was not sent", extra={"fields": fields})
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
            local_hostname=gethostname(),  # the default, getfqdn(), may wait for a resolver
        )


async def _hand_over(message: EmailMessage, connection: SMTP) -> None:
    try:
        await connection.send_message(message)
    except asyncio.CancelledError:
        connection.close()  # or the end of its block would wait for the answer to QUIT
        raise


def _failure(error: Exception) -> MailNotSent:
    """MailRefused if another attempt cannot help. A refused login or sender can be corrected."""
    if isinstance(error, SMTPRecipientsRefused):
        error = error.recipients[0]
    if isinstance(error, SMTPResponseException):
        is_about_mail = isinstance(error, (SMTPRecipientRefused, SMTPDataError))
        is_final = is_about_mail and error.code >= 500 and error.code != LOGIN_FIRST
        return (MailRefused if is_final or error.code == TOO_LARGE else MailNotSent)(error.code)
    if isinstance(error, SMTPNotSupported):
        return MailRefused("its address needs SMTPUTF8")
    if type(error) is SMTPException:  # of constant texts, such as that there is no STARTTLS
        return MailNotSent(error.message)
    is_connecting = type(error) is SMTPConnectError  # its cause: the name, the certificate, …
    return MailNotSent(type((is_connecting and error.__cause__) or error).__qualname__)


class Outbox(Mailer):
    """Keeps the latest messages of this process, in development, and logs them."""

    def __init__(self) -> None:
        self.messages: deque[EmailMessage] = deque(maxlen=KEPT)

    async def send(self, message: EmailMessage) -> None:
        """Keep the message, and log it."""
        self.messages.append(message)
        fields = {"to": message["To"], "subject": message["Subject"], "text": text_of(message)}
        logger.info("a mail, kept at /mail and not sent", extra={"fields": fields})


def text_of(message: EmailMessage, kind: str = "plain") -> str | None:
    """The body, as `plain` text or as `html`; None if the message has no such part."""
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
