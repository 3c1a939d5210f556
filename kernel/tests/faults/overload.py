"""The drills of a frozen database and of overload: when clients are answered, and what gets done.

`uv run python -m kernel.tests.faults.overload` prints a table; it needs `wrk` and takes about two
minutes. The clients share the machine's cores with the service and the database.
"""

import asyncio
import os
import re
import shutil
import signal
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import httpx

from kernel.tests.app import PATHS
from kernel.tests.faults.signals import Lab, Row, laboratory, print_rows
from kernel.tests.processes import Service, processes_in

FROZEN_SECONDS, DEADLINE, CALLERS = 12.0, 5.0, 8
APP = "kernel.tests.faults.ending:app"
BASE, CROWD, SECONDS = 32, 256, 10
LIVEZ_SECONDS = 0.15
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SCRIPT = """
local tokens, n = {{ {tokens} }}, 0
function request()
    n = n + 1
    local token, json = tokens[n % #tokens + 1], "application/json"
    local headers = {{ ["Authorization"] = token, ["Content-Type"] = json }}
    headers["X-Forwarded-For"] = "192.0.2." .. n % 200
    return wrk.format("{method}", "{path}", headers, {body})
end
function response(status, headers)
    if status >= 300 then
        local is_told = headers["retry-after"] or headers["Retry-After"]
        io.stderr:write(status .. (is_told and " told" or " untold") .. "\\n")
    end
end
"""


async def frozen_database(lab: Lab) -> list[Row]:
    """Every process of PostgreSQL is stopped for 12 s, under readers, writers and sign-ins."""
    async with lab.serve() as (service, token):
        slow, livez, statuses = [], [], Counter[str]()
        is_over = False

        async def ask(number: int) -> None:
            headers = {"Authorization": token} | ({"Idempotency-Key": "k"} if number == 1 else {})
            form = {"username": "nobody@example.com", "password": "wrong"}
            async with _client(service) as client:
                while not is_over:
                    began = time.monotonic()
                    if number % 4 == 0:
                        answer = await client.get("/users/me", headers=headers)
                    elif number % 4 == 3:
                        answer = await client.post(PATHS["create_token"], data=form)
                    else:
                        body = {"full_name": f"Drill {time.monotonic()}"}
                        answer = await client.patch("/users/me", json=body, headers=headers)
                    slow.append(time.monotonic() - began)
                    is_told = "retry-after" in answer.headers or answer.status_code < 503
                    statuses[f"{answer.status_code}{'' if is_told else ' unknown'}"] += 1
                    await asyncio.sleep(0.02)

        async def look() -> None:
            async with _client(service) as client:
                while not is_over:
                    began = time.monotonic()
                    await client.get("/livez")
                    livez.append(time.monotonic() - began)
                    await asyncio.sleep(0.02)

        asking = [asyncio.create_task(each) for each in (*map(ask, range(16)), look())]
        await asyncio.sleep(1)
        stopped = [*processes_in(lab.folder / "pg")]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(FROZEN_SECONDS)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(2)
        is_over = True
        await asyncio.gather(*asking)
        worst, alive = max(slow), max(livez)
        return [
            (
                "D5b",
                "worst first byte, frozen database",
                f"{worst:.2f} s {statuses}",
                worst <= DEADLINE,
            ),
            ("D5b", "worst /livez meanwhile", f"{alive * 1e3:.0f} ms", alive <= LIVEZ_SECONDS),
        ]


async def crowds(lab: Lab) -> list[Row]:
    """256 connections of eight callers: what gets done, beside what 32 get done."""
    loads = [
        ("GET", "/users/me", None),
        ("POST", "/peelings", '{"title": "Soup"}'),
        ("GET", "/ending/query", None),
    ]
    rows = []
    async with lab.serve(APP, "--forwarded-allow-ips", "*") as (service, _):
        tokens = [await lab.token(service.port, f"caller{n}") for n in range(CALLERS)]
        for method, path, body in loads:
            script = lab.folder / "load.lua"
            script.write_text(
                SCRIPT.format(
                    tokens=", ".join(f'"{token}"' for token in tokens),
                    method=method,
                    path=path,
                    body=f"'{body}'" if body else "nil",
                )
            )
            base, *_ = await _press(service, script, BASE)
            good, rejects, livez, latency = await _press(service, script, CROWD)
            what = f"{method} {path}, {CROWD} connections"
            figure = f"{good:.0f}/s, {good / base:.2f} of {base:.0f}/s at {BASE}"
            rows.append(("L3b", what, figure, good >= 0.7 * base))
            is_told = all(" untold" not in each for each in rejects)
            told = f"{dict(rejects) or 'none'}, worst answer {latency:.2f} s"
            told += f", /livez p99 {livez * 1e3:.0f} ms"
            rows.append(("L3b", f"{what}: rejects", told, is_told and latency < DEADLINE))
    return rows


async def _press(
    service: Service, script: Path, connections: int
) -> tuple[float, Counter[str], float, float]:
    """Goodput a second, what was rejected, /livez's 99th percentile, the slowest answer."""
    livez: list[float] = []
    command = ["wrk", "-t2", f"-c{connections}", f"-d{SECONDS}", "--latency", "--timeout", "20"]
    process = await asyncio.create_subprocess_exec(
        *command, "-s", str(script), f"http://127.0.0.1:{service.port}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    running = asyncio.create_task(process.communicate())
    async with _client(service) as client:
        while not running.done():
            began = time.monotonic()
            await client.get("/livez")
            livez.append(time.monotonic() - began)
            await asyncio.sleep(0.05)
    output, errors = (text.decode() for text in await running)
    requests = re.search(r"(\d+) requests in ([\d.]+)s", output)
    if not requests:
        raise RuntimeError(output + errors)
    rejects = Counter(errors.split("\n")[:-1])
    good = (int(requests[1]) - rejects.total()) / float(requests[2])
    # Its own clock: wrk, which has no core to itself, sees its answers later than they are there.
    worst = max(line["ms"] for line in service.lines() if "ms" in line) / 1e3
    return good, rejects, quantiles([*livez, *livez], n=100)[-1], worst


@asynccontextmanager
async def _client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{service.port}"
    # To read certificates would stop the clock of the others.
    async with httpx.AsyncClient(
        base_url=base, trust_env=False, timeout=30, verify=NO_TLS
    ) as client:
        yield client


DRILLS: list[Callable[[Lab], Awaitable[list[Row]]]] = [frozen_database, crowds]


async def drill(chosen: Sequence[str] = ()) -> AsyncIterator[Row]:
    """The rows of these drills, or of the named ones, as they come."""
    if shutil.which("wrk") is None:
        yield "L3b", "256 connections", "wrk is not installed", False
        return
    async for row in laboratory(DRILLS, chosen):
        yield row


if __name__ == "__main__":
    sys.exit(asyncio.run(print_rows(drill(sys.argv[1:]))))
