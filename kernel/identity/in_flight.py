"""The limit on requests of one caller whose response has not begun."""

from kernel.context import RequestContext
from kernel.data.turns import Turns

LEAST = 100


class InFlight:
    """Counts requests by their callers: for the client's network, and for the account once known.

    The limit is ten times the connections for writes, at least `LEAST`: more would only queue for
    these. Streams whose response has begun and WebSockets do not count.
    """

    def __init__(self, connections: int) -> None:
        self._turns: Turns[None] = Turns(max(LEAST, 10 * connections))

    def count(self, context: RequestContext) -> bool:
        """Count the request for its caller, as far as that is known; return False if the caller has
        as many in flight as it may have."""
        caller = context.caller
        if context.counts_for == caller:
            return True
        self.end(context)
        if self._turns.has_share(caller):
            return False
        self._turns.begin(caller)
        context.counts_for = caller
        return True

    def end(self, context: RequestContext) -> None:
        """Stop counting the request."""
        self._turns.end(context.counts_for)
        context.counts_for = None
