"""What it costs to be watched: metrics, traces, and a limit for each caller."""

import asyncio
import socket
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import NamedTuple

from kernel.tests.bench.alike import GET, POST
from kernel.tests.bench.comparison import middle
from kernel.tests.bench.report import keep, markdown
from kernel.tests.bench.stage import Failed, Load, Sample, System, fill, press, serving

HEADER = ("", "watched by", "requests/s", "p50 ms", "p99 ms", "CPU µs", "× without")
ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
# With the protocol of a deployment, whose workers count in files that they share.
OPTIONS = ("--http", "kernel.http.server:Protocol")
UNMETERED = System("nothing", "", "kernel.tests.bench.unmetered:app", OPTIONS)
LIMIT = "9999999/second"


class Watch(NamedTuple):
    """A system, and the variables that turn on what watches it."""

    system: System
    variables: Mapping[str, str]


async def watch(url: str, folder: Path, load: Load, rounds: int) -> None:
    """Measure each in turn, round after round; print and keep the medians.

    Raises:
        Failed: a program or a package is missing.
    """
    if (
        find_spec("opentelemetry") is None
        or find_spec("redis") is None
        or not which("redis-server")
    ):
        raise Failed("it takes redis-server, and --group otel --group redis behind uv run")
    items = await fill(url, 100_000, 100)
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    async with collector() as collector_url:
        with redis() as redis_url:
            watches = [*_watches(folder, collector_url, redis_url)]
            for number in range(1, rounds + 1):
                for system, variables in watches:
                    log = folder / "log"
                    async with serving(system, items.url, log, environment=variables) as running:
                        for operation in (GET, POST):
                            sample = await press(running, operation, items, load)
                            samples[operation.name, system.name].append(sample)
                            what = f"{operation.name}, {system.name}"
                            print(f"round {number}: {what}: {sample.cpu:.0f} µs")
    rows = [
        (*case, middle(each)) for case, each in sorted(samples.items(), key=lambda it: it[0][0])
    ]
    without = {name: it.cpu for name, system, it in rows if system == UNMETERED.name}
    table = [
        (name, system, f"{it.rate:,.0f}", f"{it.p50:.1f}", f"{it.p99:.1f}", f"{it.cpu:,.0f}",
         f"{it.cpu / without[name]:.2f}")
        for name, system, it in rows
    ]  # fmt: skip
    said = f"Medians of {rounds} rounds of {load.seconds} s at {load.connections} connections."
    keep("watched", said, markdown(HEADER, table))


def _watches(folder: Path, collector_url: str, redis_url: str) -> Iterator[Watch]:
    metrics = folder / "metrics"
    metrics.mkdir()
    shared = {"PROMETHEUS_MULTIPROC_DIR": f"{metrics}"}
    yield Watch(UNMETERED, shared)
    limit = {"APP_RATE_LIMIT": LIMIT}
    others: dict[str, dict[str, str]] = {
        "metrics": {},
        "a limit, in memory": limit,
        "a limit, in Redis": limit | {"APP_REDIS_URL": redis_url},
    }
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector_url, "OTEL_TRACES_SAMPLER": "traceidratio"}
    for share in (0.01, 0.1, 1):
        others[f"traces of {share:.0%}"] = traces | {"OTEL_TRACES_SAMPLER_ARG": f"{share}"}
    for name, variables in others.items():
        yield Watch(System(name, "", "service:app", OPTIONS), shared | variables)


@asynccontextmanager
async def collector() -> AsyncIterator[str]:
    """Where traces are sent: it takes them, and does nothing with them."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].split()[0]
                await reader.readexactly(int(length))
                writer.write(ACCEPTED)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@contextmanager
def redis() -> Iterator[str]:
    """A Redis of our own, where the database and the load are as well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", f"{port}", "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()
