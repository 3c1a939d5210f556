"""What the dashboard shows of a few minutes in which two things go wrong: docs/metrics.png.

Grafana is not needed: the expressions of its panels are asked of a Prometheus that looks at the
service each second, and drawn by matplotlib.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from matplotlib import pyplot as plt
from PIL import Image

from kernel.settings import ROOT
from kernel.tests.bench.stage import OWNER, Items, System, fill, serving, tree
from kernel.tests.watching import PROTOCOL, TOKEN, Prometheus, panels, prometheus

PICTURE = ROOT / "docs/metrics.png"
SERVICE = System("service", "the service", "service:app", PROTOCOL)
EVERYWHERE = set(range(os.cpu_count() or 1))
CLIENTS, PAUSE_SECONDS = 8, 0.12
# Seconds from the beginning.
LOCKED, KILLED = 80, 140
LOCK_SECONDS, END = 20, 200
HEADERS = {"Authorization": f"Bearer {OWNER}"}
SERIES_MOST = 9


async def picture(server_url: str, folder: Path) -> None:
    """Run the service, disturb it, and draw what was seen."""
    items = await fill(server_url, 10_000, 50)
    limits: dict[str, Any] = {
        "metrics_token": TOKEN,
        "pool_size": 4,
        "max_overflow": 0,
        "read_pool_size": 4,
    }
    log = folder / "log"
    async with (
        serving(SERVICE, items.url, log, cpus=EVERYWHERE, **limits) as running,
        prometheus(folder / "prometheus", running.url.removeprefix("http://")) as watching,
    ):
        async with asyncio.timeout(END + 30), _pressed(running.url, items):
            await asyncio.sleep(LOCKED)
            connection = await asyncpg.connect(items.url)
            async with connection.transaction():
                await connection.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(LOCK_SECONDS)
            await connection.close()
            await asyncio.sleep(KILLED - LOCKED - LOCK_SECONDS)
            os.kill(tree(running.pid)[-1], signal.SIGKILL)
            await asyncio.sleep(END - KILLED)
        await _draw(watching)


@asynccontextmanager
async def _pressed(url: str, items: Items) -> AsyncIterator[None]:
    """Requests of several kinds, a few at a time, until the block ends."""
    numbers = count()

    async def ask(client: httpx.AsyncClient) -> None:
        number = next(numbers)
        kind = number % 10
        if kind == 0:
            await client.post("/items", json={"title": f"Soup {number}"})
        elif kind in {1, 2}:
            await client.get("/items?limit=50")
        elif number % 200 == 3:  # no account has that password, and more often would be guessing
            form = {"username": f"user{number}@example.com", "password": "correct horse"}
            await client.post("/auth/token", data=form)
        else:
            row = number % (items.count // items.step) + 1
            await client.get(f"/items/{row * items.step}")

    async def press() -> None:
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, trust_env=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    await ask(client)
                await asyncio.sleep(random.expovariate(1 / PAUSE_SECONDS))  # arrivals

    pressing = [asyncio.create_task(press()) for _ in range(CLIENTS)]
    try:
        yield
    finally:
        for task in pressing:
            task.cancel()
        await asyncio.gather(*pressing, return_exceptions=True)


async def _draw(watching: Prometheus) -> None:
    (now,) = await watching.query("vector(time())")
    end = float(now["value"][1])
    start = end - END
    figure, places = plt.subplots(3, 2, figsize=(13, 11), layout="constrained")
    for place, (title, targets) in zip(places.flat, panels(), strict=True):
        for expression, legend in targets:
            found = await watching.ask(
                "query_range", query=expression.replace("6s", "10s"), start=start, end=end, step=2
            )
            for series in sorted(found["result"], key=_highest, reverse=True)[:SERIES_MOST]:
                if _highest(series) > 0:
                    x = [float(time) - start for time, _ in series["values"]]
                    y = [float(value) for _, value in series["values"]]
                    place.plot(x, y, label=_named(legend, series["metric"]), linewidth=1.2)
        place.set_title(title, loc="left", fontsize=10)
        place.legend(fontsize=6, ncols=2, loc="upper left")
        place.set_ylim(0, 1.3 * place.get_ylim()[1])  # with room for the names
        place.set_xlim(0, END)
        place.grid(alpha=0.3)
        place.tick_params(labelsize=7)
        for since, until in ((LOCKED, LOCKED + LOCK_SECONDS), (KILLED, KILLED + 1)):
            place.axvspan(since, until, color="tab:red", alpha=0.12)
    with BytesIO() as file:
        figure.savefig(file, dpi=75)
        Image.open(file).convert("RGB").quantize(64).save(PICTURE, optimize=True)


def _highest(series: dict[str, Any]) -> float:
    return max((float(value) for _, value in series["values"] if value != "NaN"), default=0.0)


def _named(legend: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", value)
    return legend
