"""The digest of a request's content: the same for the same content in another encoding.

A client that sends a request again may encode it anew: a multipart body has another boundary each
time, JSON may have other whitespace or another order of members, `%7E` is `~` (RFC 3986 §6.2.2).
"""

import hashlib
import json
import re

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

JSON, FORM, MULTIPART = (
    *(b"application/json", b"application/x-www-form-urlencoded", b"multipart/form-data"),
)
ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}")
UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")  # RFC 3986 §2.3


async def digest_request(request: Request) -> bytes:
    """The SHA-256 of the query, the media type and the content of the body.

    It reads the body, as a whole or, if that may be large, piece by piece.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type == JSON:
        body = _plain_json(await request.body())
    elif media_type == FORM:
        body = _plain_text(await request.body())
    else:
        parts = _Parts(options) if media_type == MULTIPART else None
        body = await _digest_stream(request, parts)
    query = _plain_text(request.scope["query_string"])
    return hashlib.sha256(_framed(query, media_type, body)).digest()


def _framed(*texts: bytes) -> bytes:
    """The texts with their lengths in one: "ab", "c" differs from "a", "bc"."""
    return b"".join(b"%d:%b" % (len(text), text) for text in texts)


def _plain_json(body: bytes) -> bytes:
    """The JSON in one form, as Python reads it: of members with one name the last one, and a number
    with a fraction or an exponent as a float."""
    try:
        return json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):  # the handler will refuse it
        return body


def _plain_text(text: bytes) -> bytes:
    """The percent-encoded text, without encodings that are not needed."""

    def decode(match: re.Match[bytes]) -> bytes:
        character = bytes([int(match[0][1:], 16)])
        return character if UNRESERVED.fullmatch(character) else match[0].upper()

    return ENCODED.sub(decode, text.replace(b"+", b"%20"))


async def _digest_stream(request: Request, parts: "_Parts | None") -> bytes:
    raw = hashlib.sha256()
    async for chunk in request.stream():
        raw.update(chunk)
        if parts:
            parts.write(chunk)
    return parts.digest() if parts and not parts.is_broken else raw.digest()


class _Parts:
    """The digest of a multipart body's parts, in their order, without the boundary: of each the
    name, the filename, the other headers and the content. None of these is kept."""

    def __init__(self, options: dict[bytes, bytes]) -> None:
        self._total = hashlib.sha256(_framed(options.get(b"charset", b"").lower()))
        self.is_broken = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._add_name,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end,
                },
            )
        except (KeyError, FormParserError):
            self.is_broken = True

    def write(self, chunk: bytes) -> None:
        if self.is_broken:
            return
        try:
            self._parser.write(chunk)
        except FormParserError:
            self.is_broken = True

    def digest(self) -> bytes:
        return self._total.digest()

    def _begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._name, self._value = b"", b""
        self._content = hashlib.sha256()

    def _add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        name, value = self._name.lower(), self._value.strip()
        self._name, self._value = b"", b""
        if name == b"content-disposition":
            self._headers += parse_options_header(value)[1].items()
        else:
            self._headers.append((name, value))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._content.update(memoryview(data)[start:end])

    def _end(self) -> None:
        headers = [_framed(*header) for header in sorted(self._headers)]
        self._total.update(_framed(_framed(*headers), self._content.digest()))
