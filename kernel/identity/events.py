"""Security events: what happens to accounts and credentials, one line of the log each."""

import logging

from kernel.context import current_context

ALARMS = {"refresh_token_reused", "throttled"}
logger = logging.getLogger(__name__)


def security_event(event: str, target: int | str) -> None:
    """Log what has happened, from which address, and to whom: `target` is the id of an account, or
    a digest of what is none; never an address of e-mail, nor a secret.

    What a transaction does is told when it is committed:
    `session.after_commit(security_event, "role_changed", user.id)`.
    """
    context = current_context()
    fields: dict[str, object] = {"event": event, "target": target}
    if context:
        fields |= {"user_id": context.user_id, "client": context.client}
    level = logging.WARNING if event in ALARMS else logging.INFO
    logger.log(level, "security event", extra={"fields": fields})
