"""The drill of connections that a balancer keeps for as long as balancers do."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from kernel.tests.faults.drilling import Row, drill
from kernel.tests.faults.load import told_counts
from kernel.tests.faults.outages import scene

CONNECTIONS = 450
IDLE_SECONDS = 60.0
REQUEST = b"GET /livez HTTP/1.1\r\nHost: drill\r\n\r\n"


@drill("P10", f"requests on connections that were idle for {IDLE_SECONDS:.0f} s")
async def late_requests(folder: Path) -> list[Row]:
    """Each connection has its request at a moment of its own around that time, and one at once."""
    async with AsyncExitStack() as stack:
        at = await scene(stack, folder)
        outcomes = await asyncio.gather(
            *(_client(at.instance.port, n / CONNECTIONS) for n in range(CONNECTIONS))
        )
        seen = Counter(outcome for pair in outcomes for outcome in pair)
        return [Row("none is reset", told_counts(seen), holds=seen == {"200": 2 * CONNECTIONS})]


async def _client(port: int, share: float) -> tuple[str, str]:
    """The status of both requests, or why there is none: the second 1 s before to 1 s after."""
    await asyncio.sleep(2 * share)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        first = await _ask(reader, writer)
        await asyncio.sleep(IDLE_SECONDS - 1 + 2 * share)
        return first, await _ask(reader, writer)
    finally:
        writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    try:
        writer.write(REQUEST)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
        await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError) as error:
        return type(error).__name__
    return head.split()[1].decode()
