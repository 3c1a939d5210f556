"""`Mail`: what a slice sends by mail, with the values that its templates need."""

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

PLAIN = "the field {} of a mail is text or a whole number: what else it is has to be put in words"


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Mail:
    """A mail: `class Welcome(Mail, template="welcome")` says what is in `welcome.txt` and
    `welcome.html` beside its module, and its fields are the values that these need.

    A field too few or too many is a TypeError when the module is imported.
    """

    _files: ClassVar[Files]

    def __init_subclass__(cls, *, template: str) -> None:
        super().__init_subclass__()
        made: Any = dataclass(frozen=True, kw_only=True)(cls)
        hints = get_type_hints(cls)
        names = {field.name for field in fields(made)}
        if wrong := sorted(name for name in names if hints[name] not in {str, int}):
            raise TypeError(PLAIN.format(wrong[0]))
        text_file = Path(str(sys.modules[cls.__module__].__file__)).with_name(f"{template}.txt")
        cls._files = Files.read(text_file)
        cls._files.check(text_file, names)

    async def enqueue(
        self,
        session: WriteSession,
        *,
        to: str,
        key: str | None = None,
        run_at: datetime | None = None,
    ) -> None:
        """Send it once the transaction is committed, by a job, which is tried again until the mail
        server has taken it. Until then it is kept in the table of jobs, so a mail that holds a
        secret is not for this: see `send`.

        Raises:
            ValueError: `to` is no e-mail address.
            NoMailServer: the operator has named none, outside development.
        """
        if context := current_context():
            self.require_server(resources_of(context.app))
        values = vars(self._content())
        await session.enqueue(deliver, key=key, run_at=run_at, to=normal_address(to), **values)

    async def send(self, job: Job, resources: Resources, *, to: str) -> None:
        """Send it now, in an external task. The job's id makes that of the message, so that a mail
        which comes twice is shown once: make it out of the same values in each attempt.

        Raises:
            MailNotSent: the mail server has not taken it, so the job is to be tried again.
        """
        await _send(job, resources, normal_address(to), self._content())

    @staticmethod
    def require_server(resources: Resources) -> None:
        """Refuse at once what would need a mail that nobody sends.

        Raises:
            NoMailServer: the operator has named none, outside development.
        """
        settings = resources.settings
        if settings.env != "dev" and settings.smtp_url is None:
            raise NoMailServer(OFF)

    def _content(self) -> Content:
        return self._files.render(vars(self))


@task(external=True, timeout=60, concurrency=4)
async def deliver(  # noqa: PLR0913, PLR0917  # what the job keeps, by name
    job: Job, resources: Resources, to: str, subject: str, text: str, html: str | None
) -> None:
    """Hand a mail over that was enqueued."""
    await _send(job, resources, to, Content(subject, text, html))


async def _send(job: Job, resources: Resources, to: str, content: Content) -> None:
    # The ids of jobs begin anew with each database: what it says and to whom tells them apart.
    said = hashlib.sha256(f"{to}\0{content.subject}\0{content.text}".encode()).hexdigest()
    message_id = f"{resources.slug}.{job.id}.{said[:16]}"
    message = compose(message_id, resources.settings.sender, to, content)
    try:
        await resources.get(Mailer).send(message)
    except MailRefused as error:
        raise Job.Failed(str(error)) from None
