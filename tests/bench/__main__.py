"""How near to the limit: `uv run --group bench python -m tests.bench`.

Runs the bound, this service and the published layout in turn, on one database, under the same load,
and compares what a request costs the process that answers it.
"""

import argparse
import asyncio
import signal
from contextlib import suppress

from tests.bench.comparison import compare
from tests.bench.stage import Load, postgres


async def main() -> None:
    given = _arguments()
    # Whatever ends us, what we started ends with us.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    with postgres() as (url, folder):
        await compare(url, folder, Load(given.connections, given.seconds), given.rounds, given.only)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--only", default="", help="operations, such as get,list,create")
    return parser.parse_args()


with suppress(KeyboardInterrupt, asyncio.CancelledError):
    asyncio.run(main())
