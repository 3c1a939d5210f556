"""`Mail`: a mail of a slice, as a class whose fields are the values of its templates."""

import hashlib
import sys
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, dataclass_transform, get_type_hints

from kernel.context import current_context
from kernel.data.jobs import Job
from kernel.data.resources import Resources, resources_of
from kernel.data.session import WriteSession
from kernel.jobs.tasks import task
from kernel.mail.mailer import OFF, Mailer, MailRefused, NoMailServer
from kernel.mail.messages import compose, normal_address
from kernel.mail.templates import Content, Files

PLAIN = "the field {} of a mail is text or a whole number: format any other value before"
TAKEN = "a field of a mail cannot be called {}: Mail has a method or a value of this name"


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Mail:
    """A mail: `class Welcome(Mail, template="welcome")` renders `welcome.txt` and, if it exists,
    `welcome.html`, which stand beside its module; its fields, each a str or an int, are their
    values.

    A field that is missing or in no template is a TypeError when the module is imported.
    """

    _files: ClassVar[Files]

    def __init_subclass__(cls, *, template: str) -> None:
        super().__init_subclass__()
        mail_class: Any = dataclass(frozen=True, kw_only=True)(cls)
        hints = get_type_hints(cls)
        names = {field.name for field in fields(mail_class)}
        if taken := sorted(names & {*dir(Mail)}):
            raise TypeError(TAKEN.format(taken[0]))
        if wrong := sorted(name for name in names if hints[name] not in {str, int}):
            raise TypeError(PLAIN.format(wrong[0]))
        text_file = Path(str(sys.modules[cls.__module__].__file__)).with_name(f"{template}.txt")
        cls._files = Files.read(text_file)
        cls._files.check(text_file, names)

    def __post_init__(self) -> None:
        # None would be the text "None".
        for name, value in vars(self).items():
            if type(value) not in {str, int}:
                raise TypeError(PLAIN.format(name))

    async def enqueue(
        self,
        session: WriteSession,
        *,
        to: str,
        key: str | None = None,
        run_at: datetime | None = None,
    ) -> None:
        """Send it once the transaction is committed, by a job, which is tried again until the mail
        server accepts it. Until then its text is kept in the table of jobs: for a mail that holds a
        secret, use `send`. While one of this class with this `key` waits, no other is enqueued.

        Raises:
            ValueError: `to` is no e-mail address.
            NoMailServer: APP_SMTP_URL is not set, outside development.
        """
        if context := current_context():
            self.require_server(resources_of(context.app))
        values = vars(self._content())
        if key is not None:
            key = f"{type(self).__module__}.{type(self).__qualname__} {key}"
        await session.enqueue(deliver, key=key, run_at=run_at, to=normal_address(to), **values)

    async def send(self, job: Job, resources: Resources, *, to: str) -> None:
        """Send it now, in an external task. The Message-ID is derived from the job's id and the
        content, so that a mail which arrives twice is shown once: use the same values in each
        attempt.

        Raises:
            MailNotSent: the mail server did not accept it now; the job is tried again.
            JobFailed: the mail server will never accept it; the job is not tried again.
        """
        await _send(job, resources, normal_address(to), self._content())

    @staticmethod
    def require_server(resources: Resources) -> None:
        """Refuse a request that would need a mail, where none can be sent.

        Raises:
            NoMailServer: APP_SMTP_URL is not set, outside development.
        """
        settings = resources.settings
        if settings.env != "dev" and settings.smtp_url is None:
            raise NoMailServer(OFF)

    def _content(self) -> Content:
        return self._files.render(vars(self))


@task(external=True, timeout=60, concurrency=4)
async def deliver(  # noqa: PLR0913, PLR0917  # the job's arguments, by name
    job: Job, resources: Resources, to: str, subject: str, text: str, html: str | None
) -> None:
    """Send a mail that was enqueued."""
    await _send(job, resources, to, Content(subject, text, html))


async def _send(job: Job, resources: Resources, to: str, content: Content) -> None:
    # Job ids start from 1 in each new database: the digest keeps Message-IDs of two of them apart.
    parts = (resources.name, to, content.subject, content.text)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    message = compose(f"{job.id}.{digest[:24]}", resources.settings.sender, to, content)
    try:
        await resources.get(Mailer).send(message)
    except MailRefused as error:
        raise Job.Failed(str(error)) from None
