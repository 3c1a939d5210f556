"""The arguments of a deferred call: validated by the function's signature, kept as JSON."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter, iscoroutinefunction, signature
from typing import Annotated, Any, NotRequired, Self, get_args, get_origin, get_type_hints

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import from_json
from typing_extensions import TypedDict

# A request's body of 1 MiB fits, as text, even if JSON escapes each of its characters, twice.
JSON_MAX_CHARACTERS = 16 * 1024 * 1024


@dataclass(frozen=True)
class Arguments:
    """The parameters of a function: `injected` ones, with their types, come from the kernel; the
    caller passes the others, of which `required` have no default."""

    name: str
    injected: Mapping[str, type]
    required: tuple[str, ...]
    adapter: TypeAdapter[dict[str, Any]]

    @classmethod
    def of(cls, name: str, function: Any, types: Collection[type], reserved: set[str]) -> Self:
        """Those of an async function; parameters of these `types` are injected.

        Raises:
            TypeError: the function is not async, or a parameter is positional-only, variadic or
                untyped, has a reserved name, or a type that JSON cannot hold, or is a table's row.
        """
        if not iscoroutinefunction(function):
            raise TypeError(f"{name} is no async function: write it with async def")
        injected, fields = {}, {}
        hints = get_type_hints(function, include_extras=True)
        for parameter in signature(function).parameters.values():
            is_named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
            hint = hints.get(parameter.name)
            if not is_named or hint is None or parameter.name in reserved:
                rule = f"have a name and a type, and be none of {', '.join(sorted(reserved))}"
                raise TypeError(f"{name}: the parameter {parameter.name} should {rule}")
            bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            if bare in types:
                injected[parameter.name] = bare
            elif hasattr(bare, "__table__"):
                raise TypeError(f"{name}: the parameter {parameter.name} should be an id: no row")
            else:
                is_required = parameter.default is Parameter.empty
                fields[parameter.name] = hint if is_required else NotRequired[hint]
        required = tuple(key for key, hint in fields.items() if get_origin(hint) is not NotRequired)
        return cls(name, injected, required, _adapter(name, fields))

    def dump(self, arguments: dict[str, Any]) -> str:
        """The arguments as JSON.

        Raises:
            TypeError: one is unknown, missing or of another type, or JSON would change its value.
            ValueError: together they are longer than 16 MiB as JSON.
        """
        try:
            valid = self.adapter.validate_python(arguments)
        except ValidationError as error:
            raise self._mistake(error) from None
        text = self._json_of(valid)
        if text is None:
            names = ", ".join(name for name in valid if self._json_of({name: valid[name]}) is None)
            raise TypeError(f"{self.name}: JSON cannot hold {names}")
        if len(text) > JSON_MAX_CHARACTERS:
            longest = max(valid, key=lambda name: len(self._json_of({name: valid[name]}) or ""))
            raise ValueError(f"{self.name}: {longest} is too long: all are 16 MiB of JSON at most")
        if (loaded := self.load(text)) != valid:
            names = ", ".join(name for name in valid if loaded.get(name) != valid[name])
            raise TypeError(f"{self.name}: JSON would change {names}")
        return text

    def load(self, text: str) -> dict[str, Any]:
        """The arguments that were dumped.

        Raises:
            TypeError: they are not what the function takes now.
        """
        try:
            return self.adapter.validate_json(text, by_alias=True, by_name=True)
        except ValidationError as error:
            raise self._mistake(error) from None

    def _json_of(self, values: dict[str, Any]) -> str | None:
        """Some of the arguments as JSON, or None if it cannot hold them."""
        try:
            data = self.adapter.dump_json(values)
            from_json(data)  # refuses what is nested too deep, and numbers of too many digits
        except (ValueError, RecursionError):  # pydantic's own errors are ValueErrors
            return None
        return data.decode()

    def _mistake(self, error: ValidationError) -> TypeError:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        # Of the location, the argument's name alone: a dict's keys are values.
        names = [f"{'in ' * (len(part['loc']) > 1)}{[*part['loc'], 'JSON'][0]}" for part in details]
        reasons = [f"{name}: {part['type']}" for name, part in zip(names, details, strict=True)]
        return TypeError(f"{self.name}: {', '.join(reasons)}")


def _adapter(name: str, fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    make_type: Any = TypedDict
    try:
        return TypeAdapter(with_config(ConfigDict(extra="forbid"))(make_type(name, fields)))
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"{name}: a parameter has a type that no JSON has: {error}") from error
