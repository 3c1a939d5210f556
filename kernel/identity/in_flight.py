"""How many requests of one caller may wait for the beginning of their answer at once."""

from kernel.context import RequestContext
from kernel.data.turns import Turns

LEAST = 100


class InFlight:
    """Counts requests by their callers: for an address until the account is known, then for that.

    Ten times as many as there are connections for writes would only wait for these; what waits for
    something else has to end as well. A stream that has begun, or a WebSocket, is no request that
    waits.
    """

    def __init__(self, connections: int) -> None:
        self._turns: Turns[None] = Turns(max(LEAST, 10 * connections))

    def count(self, context: RequestContext) -> bool:
        """Count the request for its caller, as far as that is known by now; False if the caller has
        as many as it may have."""
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
        """Count it no longer."""
        self._turns.end(context.counts_for)
        context.counts_for = None
