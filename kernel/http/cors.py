"""CORS: pages of other origins that may call the API (Fetch Standard, "CORS protocol")."""

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# Response headers that a page may read, beside the safelisted ones (Fetch Standard,
# "CORS-safelisted response-header name").
EXPOSED = (
    *("ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied", "RateLimit"),
    *("RateLimit-Policy", "Retry-After", "X-Request-ID"),
)


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let these origins send any header and read every response, errors included. A page sets its
    credential in a header itself: the browser sends no cookies."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )
