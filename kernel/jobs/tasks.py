"""Tasks: the functions whose calls are jobs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from inspect import Parameter, iscoroutinefunction, signature
from typing import (
    Annotated,
    Any,
    Generic,
    NotRequired,
    ParamSpec,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)
from weakref import WeakSet

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict

from kernel.context import current_context
from kernel.data.jobs import KEEP, REPLACE, Job
from kernel.data.resources import Resources
from kernel.data.session import WriteSession
from kernel.jobs.schedule import Schedule, make_schedule

P = ParamSpec("P")
OURS = (WriteSession, Job, Resources)
# What `enqueue` has parameters of these names for.
RESERVED = {"run_at", "key", "replace"}
TASKS: dict[str, "Task[Any]"] = {}
# What is to be woken by a new job, in this process.
wakers: WeakSet[Any] = WeakSet()


@dataclass(frozen=True, eq=False)
class Task(Generic[P]):
    """A function whose calls can be enqueued; called by its name, it simply runs."""

    name: str
    function: Callable[P, Awaitable[Any]]
    arguments: TypeAdapter[dict[str, Any]]
    # Parameters that are the kernel's to give, by their types.
    given: Mapping[str, type]
    is_external: bool
    timeout: float
    concurrency: int | None
    schedule: Schedule | None

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await self.function(*args, **kwargs)

    def insert(
        self, arguments: dict[str, Any], run_at: datetime | None, key: str | None, *, replace: bool
    ) -> tuple[str, list[Any]]:
        """The statement that enqueues a call, and its values.

        Raises:
            TypeError: an argument is none of the task's, or of another type, or would not be the
                same after its way through JSON.
        """
        if run_at is not None and run_at.tzinfo is None:
            raise TypeError(f"{self.name}: run_at has no offset from UTC")
        context = current_context()
        values = [self.name, self._dump(arguments), key, run_at, context and context.request_id]
        return (REPLACE if replace else KEEP), values

    def load(self, arguments: str) -> dict[str, Any]:
        """The arguments of a job.

        Raises:
            TypeError: they are not what the function takes now.
        """
        try:
            return self.arguments.validate_json(arguments)
        except ValidationError as error:
            raise self._mistake(error) from None

    def _dump(self, arguments: dict[str, Any]) -> str:
        try:
            valid = self.arguments.validate_python(arguments)
            text = self.arguments.dump_json(valid).decode()
        except ValidationError as error:
            raise self._mistake(error) from None
        except PydanticSerializationError:
            raise TypeError(f"{self.name}: an argument is not what JSON can hold") from None
        if (loaded := self.load(text)) != valid:
            names = ", ".join(name for name in valid if loaded.get(name) != valid[name])
            raise TypeError(f"{self.name}: JSON would change {names}")
        return text

    def _mistake(self, error: ValidationError) -> TypeError:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        words = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['type']}" for e in told)
        return TypeError(f"{self.name}: {words}")

    @staticmethod
    def wake() -> None:
        """Let the workers of this process look at once."""
        for waker in wakers:
            waker.wake()


@overload
def task(function: Callable[P, Awaitable[Any]], /) -> Task[P]: ...
@overload
def task(
    *,
    external: bool = False,
    timeout: float = 30.0,
    concurrency: int | None = None,
    every: str | None = None,
    cron: str | None = None,
) -> Callable[[Callable[P, Awaitable[Any]]], Task[P]]: ...
def task(  # noqa: PLR0913  # they are named
    function: Callable[P, Awaitable[Any]] | None = None,
    /,
    *,
    external: bool = False,
    timeout: float = 30.0,
    concurrency: int | None = None,
    every: str | None = None,
    cron: str | None = None,
) -> Any:
    """Make an async function a task: `await session.enqueue(it, user_id=7)` has it run later.

    It runs in one unit of work, which also ends the job, so what it does in the database happens
    once; `external` is for what talks to others: no transaction is held, and it may happen again.
    `timeout` is in seconds; `concurrency` is how many run at once, in all processes; `every="1h"`
    or `cron="0 3 * * *"`, in UTC, enqueue it by themselves.

    Raises:
        TypeError: the function's parameters cannot be those of a task.
        ValueError: the schedule is not to be understood, or a number is not positive.
    """

    def make(function: Callable[P, Awaitable[Any]]) -> Task[P]:
        made = _make_task(function, external, timeout, concurrency, make_schedule(every, cron))
        known = TASKS.get(made.name)
        if known and _place(known.function) != _place(function) and "<" not in _place(function):
            raise ValueError(f"two tasks are called {made.name}: give one another name")
        TASKS[made.name] = made
        return made

    return make if function is None else make(function)


def _place(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _make_task(
    function: Callable[P, Awaitable[Any]],
    is_external: bool,
    timeout: float,
    concurrency: int | None,
    schedule: Schedule | None,
) -> Task[P]:
    top, *rest = function.__module__.split(".")
    name = f"{rest[0] if top == 'features' and rest else top}.{function.__name__}"
    if not iscoroutinefunction(function):
        raise TypeError(f"{name} is no async function")
    if timeout <= 0 or (concurrency is not None and concurrency < 1):
        raise ValueError(f"{name}: timeout and concurrency should be positive")
    given, fields = _parameters(name, function)
    if is_external and WriteSession in given.values():
        raise TypeError(f"{name} is external and holds no session: async with open_session()")
    if schedule and any(get_origin(each) is not NotRequired for each in fields.values()):
        raise TypeError(f"{name} runs on a schedule, which gives no arguments")
    make_type: Any = TypedDict
    typed = with_config(ConfigDict(extra="forbid"))(make_type(name, fields))
    try:
        arguments: TypeAdapter[dict[str, Any]] = TypeAdapter(typed)
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"{name}: a parameter has a type that no JSON has: {error}") from error
    return Task(name, function, arguments, given, is_external, timeout, concurrency, schedule)


def _parameters(name: str, function: Any) -> tuple[dict[str, type], dict[str, Any]]:
    """Those that the kernel gives, by their types; and the others, as a TypedDict's fields."""
    given, fields = {}, {}
    hints = get_type_hints(function, include_extras=True)
    for parameter in signature(function).parameters.values():
        is_named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        hint = hints.get(parameter.name)
        if not is_named or hint is None or parameter.name in RESERVED:
            raise TypeError(
                f"{name}: {parameter} should have a name and a type, and be none of"
                f" {', '.join(sorted(RESERVED))}, which are enqueue's own"
            )
        bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if bare in OURS:
            given[parameter.name] = bare
        elif parameter.default is Parameter.empty:
            fields[parameter.name] = hint
        else:
            fields[parameter.name] = NotRequired[hint]
    return given, fields
