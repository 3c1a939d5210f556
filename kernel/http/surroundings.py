"""What all requests of an app share in the middleware."""

from dataclasses import dataclass

from starlette.types import ASGIApp

from kernel.data.resources import Resources
from kernel.http.answer_headers import AnswerHeaders
from kernel.http.deadlines import Deadlines
from kernel.http.drain import Drain
from kernel.identity.in_flight import InFlight
from kernel.identity.rate_limit import RateLimiter


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The shared objects and limits of one app."""

    app: ASGIApp
    resources: Resources
    drain: Drain
    deadlines: Deadlines
    in_flight: InFlight
    limiter: RateLimiter | None
    answer_headers: AnswerHeaders
    max_body_bytes: int
    slow_seconds: float
