"""The mails of a service without a mail server, in development: kept in memory, and shown here."""

from email.message import EmailMessage
from typing import Any

from fastapi import FastAPI, Request, Response

from kernel.data.resources import resources_of
from kernel.mail.mailer import Mailer, Outbox, make_mailer, text_of

PAGE = "kernel.show_mails"


def open_mail(app: FastAPI) -> None:
    """Put the mailer into the resources and, if it keeps its mails, serve them at `/mail`, unless
    the service has a route for that."""
    resources = resources_of(app)
    mailer = make_mailer(resources.settings)
    resources.put(mailer, Mailer)
    is_served = any(getattr(route, "name", None) == PAGE for route in app.router.routes)
    if isinstance(mailer, Outbox) and not is_served:
        app.add_api_route("/mail", _mails, include_in_schema=False, name=PAGE)


async def _mails(request: Request, response: Response) -> list[dict[str, Any]]:
    response.headers["Cache-Control"] = "no-store"  # they hold links
    mailer = resources_of(request.app).get(Mailer)
    return [_as_json(message) for message in reversed(getattr(mailer, "messages", ()))]


def _as_json(message: EmailMessage) -> dict[str, Any]:
    headers = {name: message[name] for name in ("Message-ID", "Date", "To", "Subject")}
    return headers | {"text": text_of(message), "html": text_of(message, "html")}
