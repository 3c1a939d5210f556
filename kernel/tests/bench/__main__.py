"""How near to the limit: `uv run --group bench python -m kernel.tests.bench`.

Runs the bound, this service (with its short ways and without), FastAPI by hand and the published
layout in turn, on one database and under the same load, and compares what a request costs the
process that answers it, at a few connections and at many. `growth` asks what the service's requests
cost as rows, slices and connections grow, `workers` what a second worker brings, `watched` what
metrics, traces and a limit for each caller cost. `panels` draws docs/metrics.png: what Prometheus
sees of a service in which things go wrong. `jobs` counts jobs a second, beside pgqueuer's, and asks
what they cost the requests beside them.
"""

import asyncio
import os
import shutil
import signal
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

from kernel.settings import ROOT
from kernel.tests.bench.comparison import compare
from kernel.tests.bench.growth import grow, scale
from kernel.tests.bench.jobs import measure
from kernel.tests.bench.panels import picture
from kernel.tests.bench.stage import OTHER_CPUS, Failed, Load, postgres
from kernel.tests.bench.watched import watch


async def main(given: Namespace) -> None:
    # Whatever ends us, what we started ends with us.
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    loads = [Load(connections, given.seconds) for connections in given.connections]
    cpus = os.sched_getaffinity(0) if given.what == "workers" else OTHER_CPUS
    with postgres(cpus) as (url, folder):
        if given.what == "growth":
            await grow(url, folder, loads[0])
        elif given.what == "workers":
            await scale(url, folder, loads[0], given.rounds)
        elif given.what == "watched":
            await watch(url, folder, loads[0], given.rounds)
        elif given.what == "panels":
            await picture(url, folder)
        elif given.what == "jobs":
            await measure(url, folder)
        else:
            await compare(url, folder, loads, given.rounds, given.only)


def arguments() -> Namespace:
    parser = ArgumentParser(
        "kernel.tests.bench", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="compare",
        choices=("compare", "growth", "workers", "watched", "panels", "jobs"),
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument(
        "--connections",
        type=int,
        nargs="+",
        default=[8, 16, 32, 128],
        help="compare at each of these numbers, and the layout at the first one only;"
        " growth, workers and watched use the first",
    )
    parser.add_argument("--only", default="", help="compare just the operations named like this")
    return parser.parse_args()


if not (ROOT / "features/items").exists():
    raise SystemExit("there are no items to measure")
if shutil.which("wrk") is None:
    raise SystemExit("wrk is missing; on Debian: apt-get install wrk")
if len(os.sched_getaffinity(0)) < 2:
    raise SystemExit("two CPUs are needed: one for the system, one for the database and the load")
try:
    asyncio.run(main(arguments()))
except Failed as failure:
    raise SystemExit(f"{failure}") from None
except (KeyboardInterrupt, asyncio.CancelledError):
    raise SystemExit(130) from None
