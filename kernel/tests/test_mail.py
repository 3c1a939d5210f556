"""Mails: what they say, who takes them over, and what becomes of those that nobody takes."""

import asyncio
import re
import socket
import sys
import time
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from types import ModuleType

import pytest
from pydantic import SecretStr

from kernel import Job, Mail, open_session, resources_of
from kernel.mail import mailer
from kernel.mail.mailer import Mailer, MailNotSent, MailRefused, Outbox, SmtpMailer, make_mailer
from kernel.mail.messages import compose, normal_address
from kernel.mail.templates import Content
from kernel.mail_settings import SmtpServer
from kernel.settings import Settings
from kernel.testing.mail import CERTIFICATES, MailServer, authenticate, tls_context

TEXT = "Subject: Welcome, $name\n\nHello $name,\n\nthis costs $$5 and $count times.\n"
HTML = '<p title="$name">Hello $name, $count</p>'
SENDER = Address("Shop", addr_spec="shop@example.com")
CONTENT = Content("Welcome", "Hello, it's me: é\n", "<p>Hello</p>")


def message(to="alice@example.com", content=CONTENT):
    return compose("shop.7", SENDER, to, content)


# Templates.


@pytest.fixture
def define(tmp_path):
    """Make a mail of these files, as a slice would."""
    module = ModuleType("a_slice")
    module.__file__ = str(tmp_path / "models.py")
    sys.modules["a_slice"] = module

    def define(text=TEXT, html=HTML, **fields):
        (tmp_path / "welcome.txt").write_text(text)
        if html is not None:
            (tmp_path / "welcome.html").write_text(html)
        names = {"__module__": "a_slice", "__annotations__": fields or {"name": str, "count": int}}
        return type("Welcome", (Mail,), names, template="welcome")

    yield define
    del sys.modules["a_slice"]


def test_values_stand_in_the_subject_the_text_and_escaped_in_the_html(define):
    content = define()(name='A & "B" <c>', count=3)._content()
    assert content.subject == 'Welcome, A & "B" <c>'
    assert content.text == 'Hello A & "B" <c>,\n\nthis costs $5 and 3 times.\n'
    escaped = "A &amp; &quot;B&quot; &lt;c&gt;"
    assert content.html == f'<p title="{escaped}">Hello {escaped}, 3</p>'


def test_a_value_is_not_looked_at_for_names(define):
    content = define()(name="$count ${count} $$", count=3)._content()
    assert content.subject == "Welcome, $count ${count} $$"


def test_a_mail_may_be_text_alone(define):
    assert define(html=None)(name="A", count=3)._content().html is None


@pytest.mark.parametrize(
    ("text", "html", "reason"),
    [
        (TEXT.replace("$count", "$cuont"), HTML, r"welcome.txt needs \$cuont"),
        (TEXT, HTML.replace("$count", "${cuont}"), r"welcome.html needs \$cuont"),
        (TEXT.replace("Welcome", "$who"), HTML, r"welcome.txt needs \$who"),
        (TEXT.replace("$count", ""), HTML.replace("$count", ""), "the field count"),
        (TEXT.replace("$$5", "$5"), HTML, r"welcome.txt has a \$"),
        (TEXT, HTML.replace("$count", "$ count"), r"welcome.html has a \$"),
        ("Hello $name $count", HTML, "welcome.txt should begin with a line `Subject"),
        ("Subject: $name\n$count", HTML, "welcome.txt should begin"),
        ("Subject:\n\n$name $count", HTML, "welcome.txt should begin"),
        ("Subject: $name $count\n\n \n", HTML, "welcome.txt should begin"),
    ],
)
def test_a_template_that_is_not_as_its_mail_is_refused_when_its_module_is_imported(
    define, text, html, reason
):
    with pytest.raises(TypeError, match=reason):
        define(text, html)


def test_a_mail_without_its_files_is_refused(define, tmp_path):
    with pytest.raises(TypeError, match=r"there is no other.txt"):
        type("Other", (Mail,), {"__module__": "a_slice"}, template="other")


def test_a_field_that_is_neither_text_nor_a_number_is_refused(define):
    with pytest.raises(TypeError, match="the field name of a mail is text"):
        define(name=float, count=int)


@pytest.mark.parametrize("value", [None, 1.5, True, b"A", ["A"]])
def test_a_value_that_is_neither_text_nor_a_number_is_refused(define, value):
    with pytest.raises(TypeError, match="the field name of a mail is text"):
        define()(name=value, count=1)


@pytest.mark.parametrize("name", ["send", "enqueue"])
def test_a_field_does_not_replace_what_a_mail_has(define, name):
    with pytest.raises(TypeError, match=f"cannot be called {name}"):
        define(TEXT.replace("$name", f"${name}"), None, **{name: str, "count": int})


def test_a_file_may_begin_with_a_byte_order_mark(define):
    assert define(f"\ufeff{TEXT}", f"\ufeff{HTML}")(name="A", count=1)._content().html[0] == "<"


@pytest.mark.parametrize("values", [{"name": "A"}, {"name": "A", "count": 1, "more": 2}])
def test_a_mail_needs_its_values_and_no_others(define, values):
    with pytest.raises(TypeError, match=r"count|more"):
        define()(**values)


# Messages.

BREAKS = ["\r\n", "\n", "\r", "\n\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x00"]


@pytest.mark.parametrize("end", BREAKS)
def test_no_value_begins_another_header(define, end):
    injected = f"A{end}Bcc: eve@example.com{end}{end}<p>Hi"
    content = define()(name=injected, count=1)._content()
    sent = message(content=content)
    assert sent["Subject"] == "Welcome, A Bcc: eve@example.com <p>Hi"
    raw = sent.as_bytes().decode("ascii")
    head = raw.partition("\r\n\r\n")[0].replace("\r\n ", " ")
    names = [line.partition(":")[0] for line in head.split("\r\n")]
    assert sorted(names) == sorted({*names})
    assert {"Bcc", "bcc"} & {*names} == set()


ENCODED = [
    "=?utf-8?q?A=0D=0ABcc:_eve=40example.com=0D=0A=0D=0AHi?=",
    "=?utf-8?b?QQ0KQmNjOiBldmVAZXhhbXBsZS5jb20NCg0KSGk=?=",
    "=?us-ascii*en?q?A=0ABcc:_eve?=",
    "=?unknown-8bit?q?A=0D=0ABcc:_eve?=",
    "A=?utf-8?q?=0DBcc:_eve?=\u00e9",
    "==?utf-8?q?A=0D=0ABcc:_eve?=?=",
]


@pytest.mark.parametrize("name", ENCODED)
def test_an_encoded_word_in_a_subject_is_not_decoded(define, name):
    sent = message(content=define()(name=name, count=1)._content())
    assert sent["Subject"] == f"Welcome, {name.replace('=?', '= ?')}"
    read = message_from_bytes(sent.as_bytes(), policy=SMTP)
    assert read["Subject"] == sent["Subject"]
    assert read.keys() == sent.keys()
    lines = sent.as_bytes().splitlines()  # wherever a line may end
    assert not [line for line in lines if line.startswith((b"Bcc", b"Hi"))]


@pytest.mark.parametrize("local", [*ENCODED, "=?utf-8?q?eve=40example.net=2C?=", "a=?b"])
def test_an_encoded_word_is_no_address(local):
    for refuses in (message, normal_address):
        with pytest.raises(ValueError, match="e-mail address"):
            refuses(f"{local}@example.com")


@pytest.mark.parametrize("end", BREAKS)
@pytest.mark.parametrize("place", ["{}a@example.com", "a{}b@example.com", "a@example.com{}x"])
def test_no_address_begins_another_header(place, end):
    with pytest.raises(ValueError, match="e-mail address"):
        message(place.format(f"{end}Bcc: eve@example.com{end}"))


@pytest.mark.parametrize(
    "address",
    ["", "x", "a@example.com, b@example.com", "A <a@example.com>", "a@example.com>", "<a@b"],
)
def test_what_is_not_one_address_is_refused(address):
    with pytest.raises(ValueError, match="e-mail address"):
        message(address)


def test_a_message_is_text_and_html_in_ascii_with_an_id_that_stays():
    sent = message("alice@b\u00fccher.example")
    assert sent.as_bytes().isascii()
    assert sent["To"] == "alice@xn--bcher-kva.example"
    assert (sent["From"], sent["Message-ID"]) == ("Shop <shop@example.com>", "<shop.7@example.com>")
    assert sent["Auto-Submitted"] == "auto-generated"
    assert sent.get_content_type() == "multipart/alternative"
    parts = [(part.get_content_type(), part.get_content()) for part in sent.iter_parts()]
    assert parts == [("text/plain", CONTENT.text), ("text/html", "<p>Hello</p>\n")]


def test_a_long_mail_is_composed_at_once():
    """Folding a long subject, or quoting many lines, stops the event loop for seconds."""
    text = "x\n" * 100_000
    sent = message(content=Content("é " * 5000, text, text))
    assert sent["Subject"] == f"{'é ' * 124}é…"
    for part in sent.iter_parts():
        assert part["Content-Transfer-Encoding"] == "base64"
        assert part.get_content().splitlines() == text.splitlines()


@pytest.mark.parametrize("name", ["Zoë's Shop", "Shop <1>", "Shop (beta), Ltd.", "a@b"])
async def test_a_service_of_any_name_sends_mails(define, app, mails, monkeypatch, name):
    resources, job = resources_of(app), Job(id=7)
    for own in (name, name, "another"):
        monkeypatch.setattr(resources, "name", own)
        await define()(name="A", count=1).send(job, resources, to="alice@example.com")
    raw = [message_from_bytes(sent.as_bytes(), policy=SMTP) for sent in mails.messages]
    first, again, other = (sent["Message-ID"] for sent in raw)
    assert re.fullmatch(r"<7\.[0-9a-f]{24}@localhost>", first)
    assert first == again != other


async def test_a_key_is_one_of_its_mails_alone(define, app, jobs, mails):
    kinds = [define(), define()]
    for name, kind in zip(("First", "Second"), kinds, strict=True):
        kind.__qualname__ = name
    async with open_session(app) as session:
        for kind in (*kinds, *kinds):
            await kind(name="A", count=1).enqueue(session, to="alice@example.com", key="1")
    assert await jobs.drain() == ["kernel.deliver"] * 2


def test_a_long_link_arrives_whole():
    link = f"https://app.example.com/reset#token={'x' * 300}"
    [line] = message(content=Content("x", f"{link}\n", None)).get_content().splitlines()
    assert line == link


# Servers.


@pytest.fixture
def trusted(monkeypatch):
    """The tests' certificate is one that the machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES))


def mailer_for(server, scheme="smtp", options="?starttls=off", login="", host="127.0.0.1"):
    return SmtpMailer(SmtpServer.parse(f"{scheme}://{login}{host}:{server.port}{options}"))


async def test_the_server_gets_what_was_sent(mail_server):
    await mailer_for(mail_server).send(message())
    [taken] = mail_server.messages
    assert mail_server.recipients == ["alice@example.com"]
    assert taken["Message-ID"] == "<shop.7@example.com>"
    assert taken.get_body(("plain",)).get_content() == CONTENT.text


async def test_a_server_that_knows_utf_8_takes_an_address_of_any_letters(mail_server):
    await mailer_for(mail_server).send(message("jos\u00e9@example.com"))
    assert mail_server.recipients == ["jos\u00e9@example.com"]
    with MailServer(enable_SMTPUTF8=False).running() as old:
        with pytest.raises(MailRefused, match="SMTPUTF8"):
            await mailer_for(old).send(message("jos\u00e9@example.com"))
        await mailer_for(old).send(message())


@pytest.mark.parametrize(
    ("step", "answer", "kind"),
    [
        ("RCPT", "550 5.1.1 <alice@example.com> is nobody", MailRefused),
        ("RCPT", "451 4.7.1 greylisted", MailNotSent),
        ("RCPT", "530 5.7.0 log in first", MailNotSent),
        ("DATA", "554 5.7.1 alice@example.com wants none", MailRefused),
        ("DATA", "452 4.3.1 full", MailNotSent),
    ],
)
async def test_what_the_server_refuses_is_told_without_whom(mail_server, log, step, answer, kind):
    mail_server.answers[step] = [answer]
    with pytest.raises(MailNotSent) as failure:
        await mailer_for(mail_server).send(message())
    assert (type(failure.value), failure.value.reason) == (kind, int(answer[:3]))
    [line] = log.lines("WARNING")
    assert line["reason"] == int(answer[:3])
    assert "alice" not in f"{line}{failure.value!r}{failure.value.__cause__!r}"


async def test_a_mail_that_is_too_large_for_the_server_is_refused_for_good():
    with MailServer(data_size_limit=1000).running() as server:
        with pytest.raises(MailRefused) as failure:
            await mailer_for(server).send(message(content=Content("x", "x" * 1000, None)))
        await mailer_for(server).send(message())
    assert (failure.value.reason, len(server.messages)) == (552, 1)


@pytest.mark.usefixtures("trusted")
async def test_starttls_is_demanded_and_verified():
    with MailServer(tls_context=tls_context(), require_starttls=True).running() as server:
        await mailer_for(server, options="").send(message())
        await mailer_for(server, options="", host="localhost").send(message())
        assert len(server.messages) == 2
        with pytest.raises(MailNotSent):
            await mailer_for(server).send(message())  # in the clear
    with MailServer().running() as plain, pytest.raises(MailNotSent, match="STARTTLS"):
        await mailer_for(plain, options="").send(message())
    assert plain.messages == []


@pytest.mark.usefixtures("trusted")
async def test_a_server_with_tls_from_the_beginning_takes_mails():
    with MailServer(is_tls=True).running() as server:
        await mailer_for(server, "smtps", "").send(message())
        assert len(server.messages) == 1


async def test_a_certificate_that_nobody_has_signed_is_refused():
    options = {"tls_context": tls_context()}
    for own, scheme in ((options, "smtp"), ({"is_tls": True}, "smtps")):
        with MailServer(**own).running() as server, pytest.raises(MailNotSent) as failure:
            await mailer_for(server, scheme, "").send(message())
        assert (server.messages, failure.value.reason) == ([], "SSLCertVerificationError")


@pytest.mark.parametrize("is_tls", [False, True])
def test_a_server_of_tests_ends_while_a_client_is_silent(is_tls):
    with MailServer(is_tls=is_tls).running() as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        time.sleep(0.1)  # in which it is accepted
    with client:
        assert is_tls or client.recv(4) == b"220 "


async def test_who_has_to_log_in_does():
    own = {"authenticator": authenticate, "auth_require_tls": False}
    with MailServer(**own).running() as server:
        await mailer_for(server, login="user:pass%20word@").send(message())
        with pytest.raises(MailNotSent) as failure:
            await mailer_for(server, login="user:wrong@").send(message())
    assert len(server.messages) == 1
    # A wrong password is mended by the operator, and the mail sent then.
    assert (type(failure.value), failure.value.reason) == (MailNotSent, 535)


async def test_a_server_that_is_not_there_or_says_nothing_is_asked_again(monkeypatch):
    monkeypatch.setattr(mailer, "STEP_SECONDS", 0.2)
    writers = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with silent:
        place = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        for host, reason in (
            ("127.0.0.1:1", "ConnectionRefusedError"),
            (place, "SMTPConnectTimeoutError"),
        ):
            with pytest.raises(MailNotSent) as failure:
                await SmtpMailer(SmtpServer.parse(f"smtp://{host}")).send(message())
            assert (type(failure.value), failure.value.reason) == (MailNotSent, reason)
        writers[0].close()


@asynccontextmanager
async def sending_to(answer):
    """A mail on its way to a server that answers its connections in this way."""
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}?starttls=off"
        yield asyncio.create_task(SmtpMailer(SmtpServer.parse(url)).send(message()))


async def test_a_mail_that_is_cancelled_waits_for_no_answer():
    """A worker that ends gives its jobs back only when they have ended."""
    asked = asyncio.Event()

    async def say_nothing_more(reader, writer):
        writer.write(b"220 hello\r\n")
        await reader.readline()
        asked.set()
        await reader.read()
        writer.close()

    async with sending_to(say_nothing_more) as sending:
        await asked.wait()
        sending.cancel()
        await asyncio.wait([sending], timeout=0.5)
        assert sending.done()


async def test_a_mail_that_was_accepted_has_been_sent_though_its_end_is_cancelled():
    """Or a worker that ends meanwhile would give its job back, and have it sent twice."""
    asked = asyncio.Event()
    replies = {b"EHLO": b"250 hello", b"DATA": b"354 go on", b".\r\n": b"250 OK"}

    async def say_nothing_to_quit(reader, writer):
        writer.write(b"220 hello\r\n")
        is_data = False
        while (line := await reader.readline())[:4] != b"QUIT":
            if not is_data or line == b".\r\n":
                writer.write(replies.get(line[:4], b"250 OK") + b"\r\n")
            is_data = line[:4] == b"DATA" or (is_data and line != b".\r\n")
        asked.set()
        await reader.read()
        writer.close()

    async with sending_to(say_nothing_to_quit) as sending:
        await asyncio.wait_for(asked.wait(), 5)
        sending.cancel()
        await asyncio.wait_for(sending, 1)


# Settings.


def test_in_dev_mails_are_kept_and_elsewhere_refused_and_said_at_the_start(log):
    settings = Settings(_env_file=None)
    assert isinstance(make_mailer(settings), Outbox)
    assert log.lines("WARNING") == []
    assert type(make_mailer(settings.model_copy(update={"env": "prod"}))) is Mailer
    [line] = log.lines("WARNING")
    assert "APP_SMTP_URL" in line["message"]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ["APP_MAIL_FROM", "APP_PUBLIC_URL"]),
        ({"mail_from": "a@example.com"}, ["APP_PUBLIC_URL"]),
        ({"public_url": "https://a.example"}, ["APP_MAIL_FROM"]),
    ],
)
def test_who_sends_mails_says_whose_they_are_and_where_their_links_lead(given, missing):
    with pytest.raises(ValueError, match="is required with APP_SMTP_URL") as error:
        Settings(_env_file=None, smtp_url="smtps://smtp.example.com", **given)
    assert [name for name in ("APP_MAIL_FROM", "APP_PUBLIC_URL") if name in str(error.value)] == (
        missing
    )


async def test_the_kept_mails_are_shown_in_dev_and_bounded(client, mails, app, serve):
    outbox = resources_of(app).get(Mailer)
    for number in range(mailer.KEPT + 1):
        await outbox.send(message(f"user{number}@example.com"))
    answer = await client.get("/mail")
    assert answer.headers["cache-control"] == "no-store"
    shown = answer.json()
    assert len(shown) == mailer.KEPT
    assert shown[0] == {
        "Message-ID": "<shop.7@example.com>",
        "Date": shown[0]["Date"],
        "To": f"user{mailer.KEPT}@example.com",
        "Subject": "Welcome",
        "text": CONTENT.text,
        "html": "<p>Hello</p>\n",
    }
    assert "/mail" not in (await client.get("/openapi.json")).json()["paths"]
    server = {"smtp_url": SecretStr("smtp://h"), "mail_from": "a@b.example"}
    for changes in ({"env": "prod"}, {"env": "prod", **server}, server):
        async with serve(**changes) as other:
            assert (await other.get("/mail")).status_code == 404


async def test_a_mail_is_logged_in_dev_with_its_link(log, mails, app):
    sent = message(content=Content("Reset", "https://app.example.com/#token=1\n", None))
    await resources_of(app).get(Mailer).send(sent)
    [line] = [each for each in log.lines("INFO") if "mail" in each["message"]]
    assert line["to"] == "alice@example.com"
    assert mails.link in line["text"]
    assert isinstance(sent, EmailMessage)
