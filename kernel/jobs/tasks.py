"""Tasks: the functions whose calls can be enqueued as jobs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypedDict, Unpack, overload
from weakref import WeakSet

from kernel.context import current_context
from kernel.data.calls import Arguments
from kernel.data.jobs import KEEP, REPLACE, Job, check_call
from kernel.data.resources import Resources
from kernel.data.schedules import Schedule, make_schedule
from kernel.data.session import WriteSession

P = ParamSpec("P")
# Parameters of these types are injected when a task runs; these names belong to `enqueue` itself.
INJECTED, RESERVED = (WriteSession, Job, Resources), {"run_at", "key", "replace"}
TASKS: dict[str, "Task[Any]"] = {}
# The workers of this process, which a new job wakes.
wakers: WeakSet[Any] = WeakSet()


class Options(TypedDict, total=False):
    """The options of the `task` decorator; see there."""

    external: bool
    timeout: float
    concurrency: int | None
    every: str | None
    cron: str | None


@dataclass(frozen=True, eq=False)
class Task(Generic[P]):
    """A function whose calls can be enqueued; called directly, it simply runs."""

    function: Callable[P, Awaitable[Any]]
    external: bool = False
    timeout: float = 30.0
    concurrency: int | None = None
    every: str | None = None
    cron: str | None = None

    def __post_init__(self) -> None:
        arguments = self.arguments  # raises for parameters that a task cannot have
        if not 0 < self.timeout <= 86_400 or self.concurrency not in {None, *range(1, 1001)}:
            raise ValueError(f"{self.name}: timeout is 1 day at most, concurrency from 1 to 1,000")
        if self.external and WriteSession in arguments.injected.values():
            raise TypeError(f"{self.name} is external, so it holds no session: use open_session()")
        if self.schedule and arguments.required:
            raise TypeError(f"{self.name} runs on a schedule, which gives no arguments")

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await self.function(*args, **kwargs)

    @cached_property
    def name(self) -> str:
        """`slice.function`; outside of features/, `package.function`."""
        top, *rest = self.function.__module__.split(".")
        return f"{rest[0] if top == 'features' and rest else top}.{self.place.split('.')[-1]}"

    @cached_property
    def place(self) -> str:
        return f"{self.function.__module__}.{getattr(self.function, '__qualname__', '')}"

    @cached_property
    def arguments(self) -> Arguments:
        return Arguments.of(self.name, self.function, INJECTED, RESERVED)

    @cached_property
    def schedule(self) -> Schedule | None:
        return make_schedule(self.every, self.cron)

    def insert(
        self, arguments: dict[str, Any], run_at: datetime | None, key: str | None, *, replace: bool
    ) -> tuple[str, list[Any]]:
        """The statement that enqueues a call, and its values.

        Raises:
            TypeError, ValueError: see `Arguments.dump` and `check_call`.
        """
        check_call(self.name, run_at, key)
        request_id = (context := current_context()) and context.request_id
        values = [self.name, self.arguments.dump(arguments), key, run_at, request_id]
        return (REPLACE if replace else KEEP), values

    @staticmethod
    def wake() -> None:
        """Make the workers of this process look for jobs now."""
        for waker in wakers:
            waker.wake()


@overload
def task(function: Callable[P, Awaitable[Any]], /) -> Task[P]: ...
@overload
def task(**options: Unpack[Options]) -> Callable[[Callable[P, Awaitable[Any]]], Task[P]]: ...
def task(function: Callable[P, Awaitable[Any]] | None = None, /, **options: Unpack[Options]) -> Any:
    """Make an async function a task: `await session.enqueue(it, user_id=7)` has it run later.

    It runs in one unit of work, which also ends the job, so its changes in the database happen
    exactly once. `external=True` is for a task that calls other systems: it holds no transaction,
    and after a crash it may run again. `timeout` is in seconds, 30 by default; `concurrency` is how
    many run at once, in all processes; `every="1h"` or `cron="0 3 * * *"`, in UTC, is a schedule.

    Raises:
        TypeError: the function is not async, or has a parameter that it cannot have.
        ValueError: the schedule is not valid, `timeout` is over a day, `concurrency` over 1,000 or
            one not positive, or another task has this name.
    """

    def make(function: Callable[P, Awaitable[Any]]) -> Task[P]:
        new = Task(function, **options)
        if TASKS.get(new.name, new).place != new.place and "<" not in new.place:
            raise ValueError(f"two tasks are called {new.name}: give one another name")
        TASKS[new.name] = new
        return new

    return make if function is None else make(function)
