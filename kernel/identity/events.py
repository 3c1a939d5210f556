"""Security events: what happens to accounts and credentials, one line of the log each."""

import logging

from kernel.context import current_context

ALARMS = {"refresh_token_reused", "throttled"}
logger = logging.getLogger(__name__)


def security_event(event: str, target: int | str) -> None:
    """Log the event with the caller, the client's address and the `target`: an account's id, or a
    digest for an e-mail address that has no account; never an e-mail address or a secret.

    Log what a transaction does after its commit:
    `session.after_commit(security_event, "role_changed", user.id)`.
    """
    context = current_context()
    fields: dict[str, object] = {"event": event, "target": target}
    if context:
        fields |= {"user_id": context.user_id, "client": context.client}
    level = logging.WARNING if event in ALARMS else logging.INFO
    logger.log(level, "security event", extra={"fields": fields})
