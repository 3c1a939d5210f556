"""A Prometheus that looks at a service, and what the dashboard asks of it."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import to_thread

from kernel.settings import ROOT
from kernel.tests.processes import PATIENCE, end, until

OBSERVABILITY = ROOT / "deploy/observability"
TOKEN = "a-scrapers-own-" + "4f1c0b7e9d2a6835" * 2
PROTOCOL = ("--workers", "2", "--http", "kernel.http.server:Protocol")


def program(name: str) -> str:
    """Where it is."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"this needs {name}: apt-get install prometheus")
    return found


def quick(text: str) -> str:
    """A configuration whose times a test can wait for."""
    text = re.sub(r"_interval: 15s", "_interval: 1s", text)
    text = re.sub(r"\[5m\]|\[1h\]", "[6s]", text)
    return re.sub(r"for: \d+m", "for: 1s", text)


class Prometheus:
    """A running one; `query` gives the result of an instant query."""

    def __init__(self, port: int) -> None:
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False)

    async def ask(self, path: str, **arguments: Any) -> Any:
        answer = await self.client.get(f"/api/v1/{path}", params=arguments)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def query(self, expression: str) -> Any:
        return (await self.ask("query", query=expression))["result"]

    async def is_looking(self) -> bool:
        try:
            is_ready = (await self.client.get("/-/ready")).is_success
        except httpx.TransportError:
            return False
        return is_ready and any(each["value"][1] == "1" for each in await self.query("up"))


def _configure(folder: Path, target: str) -> None:
    folder.mkdir()
    (folder / "metrics_token").write_text(TOKEN)
    for name in ("prometheus.yml", "alerts.yaml"):
        text = (OBSERVABILITY / name).read_text().replace("127.0.0.1:8000", target)
        (folder / name).write_text(quick(text))


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Debian's, which looks at the target each second."""
    _configure(folder, target)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # which returns at once
            [
                program("prometheus"),
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = Prometheus(port)
    try:
        await until(running.is_looking, PATIENCE)
        yield running
    finally:
        await running.client.aclose()
        await to_thread.run_sync(end, process)


def panels() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The expressions of each panel, as Grafana sends them, with the names of their lines."""
    for panel in dashboard()["panels"]:
        yield (
            panel["title"],
            [(sent(each["expr"]), each["legendFormat"]) for each in panel["targets"]],
        )


def dashboard() -> Any:
    return json.loads((OBSERVABILITY / "dashboard.json").read_text())


def sent(expression: str) -> str:
    """An expression as Grafana sends it."""
    return expression.replace("$job", "service").replace("$__rate_interval", "6s")
