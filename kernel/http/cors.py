"""Pages of other origins that may ask from a browser (Fetch Standard, "CORS protocol")."""

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
# What a client reads, besides what each page may (Fetch Standard, "CORS-safelisted response-header
# name").
EXPOSED = (
    *("ETag", "Idempotent-Replayed", "Link", "Location", "Preference-Applied", "RateLimit"),
    *("RateLimit-Policy", "Retry-After", "X-Request-ID"),
)


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let these pages send any header and read every answer, refusals included. Credentials are
    headers that a page sets itself: none is sent along by the browser, such as a cookie."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )
