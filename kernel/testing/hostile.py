"""Hostile values for every place where a client can put one: fields, parameters, bodies, bytes."""

import json
from collections.abc import Iterator

LONG = 1_000_000  # characters; below the limit of a body, so that the field has to refuse it
DEEP = (20, 100, 1_000, 100_000)  # levels

# For fields and parameters, whatever their type.
TEXTS = {
    "empty": "",
    "blank": " \t\r\n",
    "NUL": "a\x00b",
    "control": "\x01\x1b[2J\x7f",
    "lone surrogate": "a\ud800b",
    "not a character": "\uffff\U0010ffff",
    "right to left": "\u202e\u0627\u0644\u200f",
    "zero width": "\u200b\u2060\ufeff",
    "decomposed": "e\u0301" * 20,
    "astral": "\U0001f955" * 20,
    "line separators": "\u2028\u2029\u0085",
    "2^31": str(2**31),
    "-2^31 - 1": str(-(2**31) - 1),
    "2^63 - 1": str(2**63 - 1),
    "2^63": str(2**63),
    "-2^63": str(-(2**63)),
    "-2^63 - 1": str(-(2**63) - 1),
    "4301 digits": "9" * 4301,
    "underscore": "1_0",
    "plus": "+1",
    "minus zero": "-0",
    "padded": " 1 ",
    "Arabic digit": "\u0661",
    "float": "1.0",
    "exponent": "1e999",
    "hexadecimal": "0x10",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "year 1": "0001-01-01T00:00:00+14:00",
    "year 9999": "9999-12-31T23:59:59-14:00",
    "year 10000": "10000-01-01T00:00:00Z",
    "naive time": "2030-01-02T03:04:05",
    "leap second": "2030-06-30T23:59:60Z",
    "day of year 1": "0001-01-01",
    "day of year 9999": "9999-12-31",
    "day of year 10000": "10000-01-01",
    "day that is not": "2030-02-30",
    "month that is not": "2030-13-01T00:00:00Z",
    "hour that is not": "2030-01-01T24:00:01Z",
    "offset that is not": "2030-01-01T00:00:00+99:99",
    "one decimal too many": "0.001",
    "ten digits too many": "9" * 20 + ".99",
    "tiny": "1e-999",
    "signalling NaN": "sNaN",
    "zero id": "00000000-0000-0000-0000-000000000000",
    "id as URN": "urn:uuid:00000000-0000-4000-8000-000000000000",
    "id in braces": "{00000000-0000-4000-8000-000000000000}",
    "id that is not": "g0000000-0000-4000-8000-00000000000",
    "timestamp": "99999999999999999999",
    "after the last year": "9999-12-31T23:59:59-01:00",
    "before the first year": "0001-01-01T00:00:00+01:00",
    "infinity": "infinity",
    "epoch": "epoch",
    "true": "true",
    "null": "null",
    "format": "%s%n{0}{{}}${x}%00",
    "path": "../../etc/passwd",
    "header": "x\r\nSet-Cookie: a=b",
    "markup": "<script>alert(1)</script>",
    "wildcards": "%_\\%",
    "mail": "a@b",
    "quoted mail": '"a b"@example.com',
    "mail to Unicode": "\u00fc@b\u00fccher.example.com",
}
# Fragments of JSON, unquoted.
LITERALS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "0": "0",
    "-0": "-0",
    "-0.0": "-0.0",
    "1.5": "1.5",
    "2^31": str(2**31),
    "-2^31 - 1": str(-(2**31) - 1),
    "2^63 - 1": str(2**63 - 1),
    "2^63": str(2**63),
    "-2^63 - 1": str(-(2**63) - 1),
    "4301 digits": "9" * 4301,
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "[]": "[]",
    "[null]": "[null]",
    "{}": "{}",
    "operator": '{"$ne": null}',
    "prototype": '{"__proto__": {"x": 1}}',
    "nested": "[" * 50 + "]" * 50,
    "one decimal too many": "0.001",
    "ten digits too many": "9" * 20 + ".99",
    "4301 decimals": "0." + "9" * 4301,
    "tiny": "1e-999",
    # Inside of a JSON object.
    "NUL in a value": r'{"a": "\u0000"}',
    "NUL in a key": r'{"\u0000": 1}',
    "lone surrogate in a value": r'{"a": ["\ud800"]}',
    "lone surrogate in a key": r'{"\udfff": 1}',
    "numbers that are not": '{"a": [NaN, Infinity, -Infinity, 1e999, -0.0]}',
    "long numbers": f'{{"a": {"9" * 4300}, "b": -{2**63}, "c": {2**64}, "d": 1e308}}',
    "4301 digits in a value": f'{{"a": {"9" * 4301}}}',
    "twice": '{"a": 1, "a": {"b": 2}}',
    "empty key": '{"": {"": null}}',
    **{
        f"{levels} objects": '{"a":' * levels + "1" + "}" * levels for levels in (20, 100, 300, 900)
    },
    "900 arrays": '{"a": ' + "[" * 900 + "]" * 900 + "}",
    "many members": json.dumps({f"k{number}": number for number in range(10_000)}),
    "long key": json.dumps({"k" * 100_000: 1}),
    "long value": json.dumps({"a": "x" * 100_000}),
    "many": json.dumps(list(range(10_000))),
}
INJECTIONS = [
    "'",
    "''",
    '"',
    "';",
    "' OR '1'='1",
    "' OR 1=1 --",
    "' OR 1=1 /*",
    '" OR "1"="1',
    "1 OR 1=1",
    "1; SELECT pg_sleep(10)",
    "'; DROP TABLE users; --",
    "'; DELETE FROM items; --",
    "'; UPDATE users SET role = 'admin'; --",
    "' UNION SELECT id, password_hash FROM users --",
    "' AND 1=CAST((SELECT password_hash FROM users LIMIT 1) AS int) --",
    "') OR ('1'='1",
    "' || pg_sleep(10) || '",
    "$$; SELECT pg_sleep(10); $$",
    "\\' OR 1=1 --",
    "\u02bc OR 1=1 --",
    "%' OR '1'='1' ESCAPE '!",
    "id; DROP TABLE users",
]

NO_OBJECTS = [
    b"",
    b" ",
    b"null",
    b"true",
    b"0",
    b'""',
    b"[]",
    b"NaN",
    b"{",
    b"}",
    b"\x00",
    b"{}x",
    b"{'a': 1}",
    b'{"a": 1,}',
    b'{"a": 1} {"a": 2}',
    b"// x\n{}",
    b'{"a": 01}',
    b"{1: 2}",
]


def texts(longest: int | None) -> Iterator[str]:
    """The hostile texts, and some that are longer than this `maxLength`, in characters."""
    yield from TEXTS.values()
    if longest:
        yield from ("x" * (longest + 1), "\U0001f955" * (longest + 1), "e\u0301" * longest)


def fragments(longest: int | None) -> Iterator[str]:
    """Hostile values, each written as JSON."""
    yield from LITERALS.values()
    yield from map(json.dumps, texts(longest))
    yield json.dumps("x" * LONG)


def documents(field: str) -> Iterator[bytes]:
    """Bodies that every operation has to refuse; `field` is the name of one of its fields."""
    for levels in DEEP:
        yield b"[" * levels + b"]" * levels
        yield b"[" * levels
        yield b'{"no field":' * levels + b"1" + b"}" * levels
        yield f'{{"{field}": '.encode() + b"[" * levels + b"]" * levels + b"}"
    yield from NO_OBJECTS
    yield f'{{"{field}": {"9" * 5000}}}'.encode()
    yield f'{{"{field}": "a", "{field}": null, "no field": 1}}'.encode()
    yield f'{{"{field}": "\\ud800"}}'.encode()
    yield f'{{"\\ud800": 1, "{field}": "a"}}'.encode()
    yield f'{{"{field}": "'.encode() + b"\xc3\x28" + b'"}'
    yield b"\xef\xbb\xbf" + f'{{"{field}": "a"}}'.encode()
    yield from (f'{{"{field}": "a"}}'.encode(code) for code in ("utf-16", "utf-16-be", "utf-32"))
    yield json.dumps({f"no field {number}": number for number in range(10_000)}).encode()
    yield json.dumps({"k" * 100_000: 1}).encode()


_GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
_POST = b"POST /auth/logout HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_FOUR = b"Content-Length: 4\r\n"
_SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
_MEGABYTE = b"a" * 1024 * 1024
REFUSED = {400, 408, 413, 414, 431}
ANSWERED = {200, *REFUSED}
# Requests as bytes, which no client library sends, and the statuses that are right for them.
REQUESTS = {
    "no Host": (b"GET /livez HTTP/1.1\r\n\r\n", REFUSED),
    "two Hosts": (_GET + b"Host: y\r\n\r\n", REFUSED),
    "CL and TE": (
        _POST + b"Content-Length: 4\r\n" + _CHUNKED + b"\r\n0\r\n\r\n" + _SMUGGLED,
        REFUSED,
    ),
    "TE and CL": (_POST + _CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + _SMUGGLED, REFUSED),
    "two TE": (_POST + _CHUNKED + b"Transfer-Encoding: x\r\n\r\n0\r\n\r\n", REFUSED),
    "odd TE": (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", REFUSED),
    "two CL": (_POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", REFUSED),
    "negative CL": (_POST + b"Content-Length: -1\r\n\r\n", REFUSED),
    "plus CL": (_POST + b"Content-Length: +2\r\n\r\n{}", REFUSED),
    "long CL": (_POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", REFUSED),
    "large CL": (_POST + b"Content-Length: 99999999999\r\n\r\n{", REFUSED),
    "bad chunk": (_POST + _CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n", REFUSED),
    "long chunk": (_POST + _CHUNKED + b"\r\n" + b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n", REFUSED),
    "bare LF": (b"GET /livez HTTP/1.1\nHost: x\n\n", REFUSED),
    "bare CR": (b"GET /livez HTTP/1.1\rHost: x\r\r", REFUSED),
    "folded header": (_GET + b"X-A: a\r\n b\r\n\r\n", REFUSED),
    "space before colon": (_GET + b"X-A : a\r\n\r\n", REFUSED),
    "no colon": (_GET + b"X-A\r\n\r\n", REFUSED),
    "no name": (_GET + b": a\r\n\r\n", REFUSED),
    "NUL in header": (_GET + b"X-A: a\x00b\r\n\r\n", REFUSED),
    "control in header": (_GET + b"X-A: a\x01\x1b\x7fb\r\n\r\n", REFUSED),
    "high bytes in header": (_GET + b"X-Request-ID: \xff\xfe\r\n\r\n", ANSWERED),
    "64 KB header": (_GET + b"X-A: " + b"a" * 65536 + b"\r\n\r\n", ANSWERED),
    "10000 headers": (_GET + b"X-A: a\r\n" * 10_000 + b"\r\n", ANSWERED),
    "1 MB path": (b"GET /" + _MEGABYTE + b" HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "1 MB query": (b"GET /livez?" + _MEGABYTE + b" HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "1 MB method": (_MEGABYTE + b" / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "NUL in path": (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "bytes in path": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "absolute form": (b"GET http://evil.example/livez HTTP/1.1\r\nHost: x\r\n\r\n", ANSWERED),
    "authority form": (b"GET @evil.example/livez HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", {404, 405, *REFUSED}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "upgrade": (_GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", ANSWERED),
    "websocket": (_GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", REFUSED),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", ANSWERED),
    "HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", ANSWERED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "HTTP/9.9": (b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n", REFUSED),
    "TLS hello": (bytes.fromhex("16030100a5010000a10303") + bytes(160), REFUSED),
    "noise": (bytes(range(256)) * 16, REFUSED),
}
