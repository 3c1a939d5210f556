"""Mail in tests: kept in the process, or received by a real mail server."""

import asyncio
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from fastapi import FastAPI
from pydantic import SecretStr

from kernel.data.resources import resources_of
from kernel.mail.mailer import Mailer, Outbox

LOGIN = LoginPassword(b"user", b"pass word")
# The server's key and certificate, for localhost, and the CA's certificate. No CA key was kept.
CERTIFICATES = Path(__file__).with_name("mail_server.pem")


class Mailbox:
    """Mails in the order in which they were sent, as `messages`."""

    def __init__(self, messages: Sequence[EmailMessage]) -> None:
        self.messages = messages

    @property
    def link(self) -> str:
        """The link in the text of the latest mail, which has exactly one."""
        body = self.messages[-1].get_body(("plain",))
        assert body, "the mail has no text"
        [link] = re.findall(r"https?://\S+", body.get_content())
        return str(link)

    @property
    def token(self) -> str:
        """The part of that link behind `#token=`."""
        return self.link.partition("#token=")[2]


class MailServer(Mailbox):
    """An SMTP server on a free port, in a thread. `messages` are those that it has accepted;
    `answers["RCPT"]` and `answers["DATA"]` list replies to give, in turn, instead of accepting."""

    def __init__(self, **options: Any) -> None:
        self.accepted: list[EmailMessage] = []
        super().__init__(self.accepted)
        self.recipients: list[str] = []
        self.answers: dict[str, list[str]] = {}
        self._options: dict[str, Any] = {"hostname": "localhost", "enable_SMTPUTF8": True} | options
        self._is_tls = self._options.pop("is_tls", False)
        self.port = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a service that sends by it: `serve(**mail_server.settings)`."""
        url = SecretStr(f"smtp://127.0.0.1:{self.port}?starttls=off")
        return {"smtp_url": url, "mail_from": "Shop <shop@example.com>", "public_url": BASE}

    @contextmanager
    def running(self) -> Iterator["MailServer"]:
        """Serve within the block."""
        loop = asyncio.SelectorEventLoop()  # uvloop has no STARTTLS for servers
        stopped, is_ready = asyncio.Event(), Event()
        thread = Thread(target=loop.run_until_complete, args=[self._serve(stopped, is_ready)])
        thread.start()
        is_ready.wait(5)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stopped.set)
            thread.join()
            loop.close()

    async def _serve(self, stopped: asyncio.Event, is_ready: Event) -> None:
        loop, context = asyncio.get_running_loop(), tls_context() if self._is_tls else None
        sessions: list[SMTP] = []

        def open_session() -> SMTP:
            sessions.append(SMTP(_Hooks(self), loop=loop, **self._options))
            return sessions[-1]

        server = await loop.create_server(open_session, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        is_ready.set()
        await stopped.wait()
        server.close()
        await _end(sessions)


async def _end(sessions: Sequence[SMTP]) -> None:
    """Close what is open, and no longer wait for the TLS handshake of whoever says nothing."""
    async with asyncio.timeout(5):
        while True:
            for session in sessions:
                if isinstance(session.transport, asyncio.Transport):
                    session.transport.abort()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)  # in which they end
            if asyncio.all_tasks() == {asyncio.current_task()}:
                return


@dataclass
class _Hooks:
    """aiosmtpd's handler: a class of its own, since aiosmtpd reads all of its attributes."""

    server: MailServer

    async def handle_RCPT(  # noqa: N802
        self, _: SMTP, __: Any, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        if refusal := self._next("RCPT"):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _: SMTP, __: Any, envelope: Envelope) -> str:  # noqa: N802
        if refusal := self._next("DATA"):
            return refusal
        content = envelope.content
        assert isinstance(content, bytes)
        message = BytesParser(policy=default).parsebytes(content.replace(b"\r\n", b"\n"))
        assert isinstance(message, EmailMessage)
        self.server.accepted.append(message)
        self.server.recipients += envelope.rcpt_tos
        return "250 OK"

    def _next(self, step: str) -> str | None:
        answers = self.server.answers.get(step)
        return answers.pop(0) if answers else None


BASE = "https://app.example.com"


def tls_context() -> ssl.SSLContext:
    """The TLS context of a server named localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES)
    return context


def authenticate(*arguments: Any) -> AuthResult:
    """An authenticator of aiosmtpd's that accepts `LOGIN` alone."""
    return AuthResult(success=arguments[-1] == LOGIN, handled=False)


@pytest.fixture
def mails(app: FastAPI) -> Mailbox:
    """The mails that the service has sent in this test, as `GET /mail` shows them: `messages`, and
    of the latest the `link` and its `token`."""
    outbox = resources_of(app).get(Mailer)
    assert isinstance(outbox, Outbox)
    outbox.messages.clear()
    return Mailbox(outbox.messages)


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A running mail server: `serve(**mail_server.settings)` sends by it."""
    with MailServer().running() as server:
        yield server
