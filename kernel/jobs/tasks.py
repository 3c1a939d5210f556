"""Tasks: the functions whose calls are jobs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypedDict, Unpack, overload
from weakref import WeakSet

from kernel.context import current_context
from kernel.data.calls import Arguments
from kernel.data.jobs import KEEP, REPLACE, Job
from kernel.data.resources import Resources
from kernel.data.schedules import Schedule, make_schedule
from kernel.data.session import WriteSession

P = ParamSpec("P")
# What a task is given, and what `enqueue` has parameters of these names for.
OURS, RESERVED = (WriteSession, Job, Resources), {"run_at", "key", "replace"}
TASKS: dict[str, "Task[Any]"] = {}
# What is to be woken by a new job, in this process.
wakers: WeakSet[Any] = WeakSet()


class Options(TypedDict, total=False):
    """What a task's decorator says of it."""

    external: bool
    timeout: float
    concurrency: int | None
    every: str | None
    cron: str | None


@dataclass(frozen=True, eq=False)
class Task(Generic[P]):
    """A function whose calls can be enqueued; called by its name, it simply runs."""

    function: Callable[P, Awaitable[Any]]
    external: bool = False
    timeout: float = 30.0
    concurrency: int | None = None
    every: str | None = None
    cron: str | None = None

    def __post_init__(self) -> None:
        needs, given = self.arguments.needs, self.arguments.given.values()
        if self.timeout <= 0 or (self.concurrency is not None and self.concurrency < 1):
            raise ValueError(f"{self.name}: timeout and concurrency should be positive")
        if self.external and WriteSession in given:
            raise TypeError(f"{self.name} is external and holds no session: open_session() has one")
        if self.schedule and needs:
            raise TypeError(f"{self.name} runs on a schedule, which gives no arguments")

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await self.function(*args, **kwargs)

    @cached_property
    def name(self) -> str:
        """Its slice's name and its own; of what is in no slice, that of the package."""
        top, *rest = self.function.__module__.split(".")
        return f"{rest[0] if top == 'features' and rest else top}.{self.place.split('.')[-1]}"

    @cached_property
    def place(self) -> str:
        return f"{self.function.__module__}.{getattr(self.function, '__qualname__', '')}"

    @cached_property
    def arguments(self) -> Arguments:
        return Arguments.of(self.name, self.function, OURS, RESERVED)

    @cached_property
    def schedule(self) -> Schedule | None:
        return make_schedule(self.every, self.cron)

    def insert(
        self, arguments: dict[str, Any], run_at: datetime | None, key: str | None, *, replace: bool
    ) -> tuple[str, list[Any]]:
        """The statement that enqueues a call, and its values; see `Arguments.dump`."""
        if run_at is not None and run_at.tzinfo is None:
            raise TypeError(f"{self.name}: run_at has no offset from UTC")
        request_id = (context := current_context()) and context.request_id
        values = [self.name, self.arguments.dump(arguments), key, run_at, request_id]
        return (REPLACE if replace else KEEP), values

    @staticmethod
    def wake() -> None:
        """Let the workers of this process look at once."""
        for waker in wakers:
            waker.wake()


@overload
def task(function: Callable[P, Awaitable[Any]], /) -> Task[P]: ...
@overload
def task(**options: Unpack[Options]) -> Callable[[Callable[P, Awaitable[Any]]], Task[P]]: ...
def task(function: Callable[P, Awaitable[Any]] | None = None, /, **options: Unpack[Options]) -> Any:
    """Make an async function a task: `await session.enqueue(it, user_id=7)` has it run later.

    It runs in one unit of work, which also ends the job, so what it does in the database happens
    once; `external` is for what talks to others: no transaction is held, and it may happen again.
    `timeout` is in seconds, 30 unless said; `concurrency` is how many run at once, in all
    processes; `every="1h"` or `cron="0 3 * * *"`, in UTC, enqueue it by themselves.

    Raises:
        TypeError: the function's parameters cannot be those of a task.
        ValueError: the schedule is not to be understood, a number is not positive, or there is a
            task of this name.
    """

    def make(function: Callable[P, Awaitable[Any]]) -> Task[P]:
        made = Task(function, **options)
        known = TASKS.get(made.name)
        if known and known.place != made.place and "<" not in made.place:
            raise ValueError(f"two tasks are called {made.name}: give one another name")
        TASKS[made.name] = made
        return made

    return make if function is None else make(function)
