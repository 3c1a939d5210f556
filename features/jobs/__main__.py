"""The worker, apart from the web:

uv run python -m features.jobs work    run jobs until SIGTERM, then end within APP_DRAIN seconds
"""

import argparse
import asyncio
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

Application = Any  # ASGI's


async def work(app: Application) -> None:
    """Run the app's lifespan until SIGTERM or SIGINT, as a server would, but serve no requests."""
    to_app, from_app, stop = asyncio.Queue[Any](), asyncio.Queue[Any](), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    lifespan = asyncio.create_task(app(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    started = asyncio.create_task(from_app.get())  # of an app that fails at once, nothing comes
    await asyncio.wait([started, lifespan], return_when=asyncio.FIRST_COMPLETED)
    if started.done() and started.result()["type"] == "lifespan.startup.complete":
        await stop.wait()
        await to_app.put({"type": "lifespan.shutdown"})
    await lifespan


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m features.jobs", description=__doc__, formatter_class=raw
    )
    parser.add_argument("command", choices=["work"])
    parser.add_argument("--app", default="service:app", help="the app, in the form MODULE:NAME")
    os.environ["APP_JOBS"] = "only"
    sys.path.insert(0, "")
    app = resolve_name(parser.parse_args().app)
    make_loop = None
    with suppress(ImportError):  # not on Windows
        make_loop = import_module("uvloop").new_event_loop
    # Not closed: that would wait for a task that suppresses its cancellation, and so for ever.
    asyncio.Runner(loop_factory=make_loop).run(work(app))


if __name__ == "__main__":
    main()
