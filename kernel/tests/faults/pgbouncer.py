"""PgBouncer between the service and PostgreSQL, with the file that we ship, and with less.

The drill takes 1.21 or newer, which `PGBOUNCER=/path/to/pgbouncer` names, with
`deploy/pgbouncer.ini` as it is, but for where the server is and who may come, and with four
connections to the server.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from configparser import RawConfigParser
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
from sqlalchemy import text

from kernel.data.readers import open_reader
from kernel.dev.embedded import BYPASS, server
from kernel.errors import ServiceError
from kernel.settings import ROOT, Settings
from kernel.tests.app import PATHS, migrate
from kernel.tests.faults.drilling import Row, drill
from kernel.tests.processes import Service, checkout_in, serve, until

SHIPPED = ROOT / "deploy/pgbouncer.ini"
NOBODY = 65534
BACKENDS, CLIENTS, ROUNDS = 4, 16, 16
SECRET = "test" * 8
QUERY = "connect_query"
BACKENDS_OF_APP = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"


def program() -> str:
    """PgBouncer's path: what PGBOUNCER names, or that of the system's.

    Raises:
        RuntimeError: there is none.
    """
    found = os.environ.get("PGBOUNCER") or shutil.which(
        "pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin"
    )
    if not found:
        raise RuntimeError("PgBouncer is missing: apt-get install pgbouncer, or name it: PGBOUNCER")
    return found


def shipped() -> tuple[dict[str, str], str]:
    """The settings that we ship, and the query that begins each connection to the server."""
    file = RawConfigParser()
    file.read(SHIPPED)
    settings = {
        name: value
        for name, value in file["pgbouncer"].items()
        if not name.startswith(("server_tls", "listen", "auth"))
    }
    [line] = file["databases"].values()
    return settings, line.partition(f"{QUERY}='")[2].rstrip("'")


@asynccontextmanager
async def pooler(
    binary: str, url: str, settings: Mapping[str, str], query: str = ""
) -> AsyncIterator[str]:
    """A PgBouncer in front of the database, which lets everybody in; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    parts = urlsplit(url)
    name, host = parts.path[1:], parse_qs(parts.query)["host"][0]
    line = f"{name} = host={host} port=5432 dbname={name} user=app"
    if query:
        line += f" {QUERY}='{query}'"
    with TemporaryDirectory() as folder:
        as_nobody = []
        if os.geteuid() == 0:  # which PgBouncer refuses to be
            os.chown(folder, NOBODY, NOBODY)
            as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            as_nobody += BYPASS.split()
        known = {
            "listen_addr": "127.0.0.1",
            "listen_port": f"{port}",
            "unix_socket_dir": "",
            "auth_type": "any",
            "logfile": f"{folder}/log",
            **settings,
        }
        told = "".join(f"{setting} = {value}\n" for setting, value in known.items())
        ini = Path(folder, "ini")
        ini.write_text(  # noqa: ASYNC240  # it is short
            f"[databases]\n{line}\n[pgbouncer]\n{told}"
        )
        process = subprocess.Popen(  # noqa: ASYNC220  # it is started at once
            [*as_nobody, binary, ini], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        async def listens() -> bool:
            if process.poll() is not None:
                raise RuntimeError(Path(folder, "log").read_text()[-1000:])  # noqa: ASYNC240
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            await until(listens, 5)
            yield f"postgresql://app@127.0.0.1:{port}/{name}?sslmode=disable"
        finally:
            process.terminate()
            process.wait()


@drill("D9b", "PgBouncer in transaction mode, with the file that we ship")
async def transaction_mode(folder: Path) -> list[Row]:
    binary = program()
    with server(folder / "pg", durable=False) as url:
        await migrate(url)
        with checkout_in(folder / "source") as checkout:
            settings, query = shipped()
            settings |= {"default_pool_size": f"{BACKENDS}"}
            async with pooler(binary, url, settings, query) as way:
                rows = [
                    *await _mixed_requests(checkout, url, way),
                    *await _limits(way),
                ]
            for limit in query.split(";"):
                rest = "; ".join(each.strip() for each in query.split(";") if each != limit)
                async with pooler(binary, url, settings, rest) as way:
                    dropped = limit.split("=")[0].split()[-1]
                    rows.append(await _refusal(checkout, way, dropped))
            untracked = settings | {"track_extra_parameters": "IntervalStyle"}
            async with pooler(binary, url, untracked, query) as way:
                rows.append(await _refusal(checkout, way, "default_transaction_read_only"))
            unprepared = settings | {"max_prepared_statements": "0"}
            async with pooler(binary, url, unprepared, query) as way:
                rows.append(await _refusal(checkout, way, "max_prepared_statements"))
    return rows


async def _mixed_requests(checkout: Path, url: str, way: str) -> list[Row]:
    log = ("--log-config", f"{ROOT / 'deploy/logging.json'}")
    async with serve(
        checkout, "--workers", "2", *log, database_url=way, jwt_secret=SECRET
    ) as service:
        await service.sign_up("ada")
        seen, direct = Counter[int](), await asyncpg.connect(url)
        began = time.perf_counter()
        work = asyncio.gather(*(_client(service, seen, number) for number in range(CLIENTS)))
        most = 0
        while not work.done():
            most = max(most, await direct.fetchval(BACKENDS_OF_APP))
            await asyncio.sleep(0.05)
        await work
        seconds = time.perf_counter() - began
        waited = await _wait_for_lock(service, direct)
        await direct.close()
        errors = [line for line in service.lines() if line.get("level") in {"ERROR", "WARNING"}]
    bad, total = sum(n for status, n in seen.items() if status >= 500), sum(seen.values())
    told = f"{bad} times 5xx of {total} in {seconds:.0f} s {dict(seen)}, {len(errors)} warnings"
    return [
        Row("no request is a 5xx", told, bad == 0 and len(errors) <= 1),  # the one of a bare start
        # One more is ours.
        Row(f"{BACKENDS} connections to the server", f"{most - 1}", most - 1 <= BACKENDS),
        Row("lock_timeout holds: 409 after three of it", f"{waited:.1f} s", waited < 5),
    ]


async def _client(service: Service, seen: Counter[int], number: int) -> None:
    """Writes with keys, reads, lists, updates and deletions: five requests a round, and more."""
    limits = httpx.Limits(max_keepalive_connections=1)
    headers = service.client.headers
    at = f"http://127.0.0.1:{service.port}"
    async with httpx.AsyncClient(
        base_url=at, headers=headers, limits=limits, timeout=30, trust_env=False
    ) as client:

        async def ask(method: str, path: str, **content: object) -> httpx.Response:
            answer = await client.request(method, path, **content)  # type: ignore[arg-type]  # httpx's
            seen[answer.status_code] += 1
            return answer

        path = PATHS["create_peeling"]
        for turn in range(ROUNDS):
            key = {"Idempotency-Key": str(uuid.uuid4())}
            body = {"title": f"Soup {number} {turn}"}
            made = await ask("POST", path, json=body, headers=key)
            one = f"{path}/{made.json().get('id', 0)}"
            await ask("GET", one)
            await ask("GET", f"{path}?limit=5&q=soup")
            await ask(
                "PATCH", one, json={"title": "Stew"}, headers={"If-Match": made.headers["etag"]}
            )
            await ask("POST", path, json=body, headers=key)
            if turn % 6 == 0:
                await ask("DELETE", one)


async def _wait_for_lock(service: Service, direct: "asyncpg.Connection[asyncpg.Record]") -> float:
    path = PATHS["create_peeling"]
    made = (await service.client.post(path, json={"title": "locked"})).json()
    async with direct.transaction():
        await direct.execute("SELECT FROM peelings WHERE id = $1 FOR UPDATE", made["id"])
        began = time.perf_counter()
        answer = await service.client.patch(f"{path}/{made['id']}", json={"title": "x"})
        waited = time.perf_counter() - began
    return waited if answer.status_code == 409 else 1e9


async def _limits(way: str) -> list[Row]:
    settings = Settings(_env_file=None, database_url=way, jwt_secret=SECRET)
    async with open_reader(way, settings, "drill") as reader:
        try:
            await reader.fetch(text("INSERT INTO peelings (title, owner_id) VALUES ('x', 1)"))
            kind = "it was written"
        except (asyncpg.PostgresError, ServiceError) as error:
            kind = type(error).__name__
        began = time.perf_counter()
        with suppress(ServiceError):
            await reader.fetch(text("SELECT pg_sleep(8)"))
        slept = time.perf_counter() - began
    return [
        Row("a connection for reads does not write", kind, "ReadOnly" in kind),
        Row("statement_timeout ends a query of 8 s", f"{slept:.1f} s", 4 < slept < 6),
    ]


async def _refusal(checkout: Path, way: str, dropped: str) -> Row:
    """Whether the service refuses to work, and names what is missing in one line for each pool."""
    async with serve(checkout, database_url=way, jwt_secret=SECRET) as service:
        statuses = {await service.status("/readyz") for _ in range(5)}
        lines = [line for line in service.lines() if "UnfitConnection" in str(line.get("error"))]
    # The probe's pool, and by then perhaps the writer's, from which jobs are taken.
    told = Counter(line["pool"] for line in lines if dropped in line["error"])
    figure = f"`/readyz` {statuses}, lines for each pool: {dict(told)}"
    holds = statuses == {503} and {*told.values()} == {1}
    return Row(f"without `{dropped}` it is refused, in a line that names it", figure, holds)
