"""How much longer a caller waits while others do something, on a machine that is not ours alone."""

from collections.abc import Awaitable, Callable, Sequence
from statistics import quantiles

Seconds = Sequence[float]

ROUNDS = 3


def p99(seconds: Seconds) -> float:
    return quantiles(seconds, n=100)[98]


async def assert_hardly_slower(
    measure: Callable[[], Awaitable[dict[str, tuple[Seconds, Seconds]]]], times: float, quiet: float
) -> None:
    """The p99 beside the others is at most so many times that without them, or of `quiet` seconds,
    below which it may be the machine's doing.

    `measure` returns both lists of seconds for each kind of request. What the others do shows in
    each round, and a stall of the machine in one: a later round may be the one that counts.
    `-rP` shows the figures.
    """
    for _ in range(ROUNDS):
        found = {
            kind: (p99(alone), p99(beside), len(beside))
            for kind, (alone, beside) in (await measure()).items()
        }
        for kind, (alone, beside, count) in found.items():
            print(f"{kind}: p99 {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} of {count}")  # noqa: T201
        if all(beside <= times * max(alone, quiet) for alone, beside, _ in found.values()):
            return
    raise AssertionError(f"more than {times} times as slow in each of {ROUNDS} rounds: {found}")
