"""A call of a function, to be made later: its arguments by the function's signature, as JSON."""

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
from pydantic_core import PydanticSerializationError
from typing_extensions import TypedDict


@dataclass(frozen=True)
class Arguments:
    """What a function takes: `given` are the parameters that are not the caller's to say, by their
    types; `needs` are those of the others that have no default."""

    name: str
    given: Mapping[str, type]
    needs: tuple[str, ...]
    adapter: TypeAdapter[dict[str, Any]]

    @classmethod
    def of(cls, name: str, function: Any, types: Collection[type], reserved: set[str]) -> Self:
        """Those of an async function, of which parameters of these types are given, and none has a
        reserved name.

        Raises:
            TypeError: they cannot be those of a call that is made later.
        """
        if not iscoroutinefunction(function):
            raise TypeError(f"{name} is no async function")
        given, fields = {}, {}
        hints = get_type_hints(function, include_extras=True)
        for parameter in signature(function).parameters.values():
            is_named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
            hint = hints.get(parameter.name)
            if not is_named or hint is None or parameter.name in reserved:
                told = f"have a name and a type, and be none of {', '.join(sorted(reserved))}"
                raise TypeError(f"{name}: the parameter {parameter.name} should {told}")
            bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            if bare in types:
                given[parameter.name] = bare
            else:
                is_needed = parameter.default is Parameter.empty
                fields[parameter.name] = hint if is_needed else NotRequired[hint]
        needs = tuple(each for each in fields if get_origin(fields[each]) is not NotRequired)
        return cls(name, given, needs, _adapter(name, fields))

    def dump(self, arguments: dict[str, Any]) -> str:
        """The arguments as JSON.

        Raises:
            TypeError: one is none of the function's, or of another type, or would not be the same
                after its way through JSON.
        """
        try:
            valid = self.adapter.validate_python(arguments)
            text = self.adapter.dump_json(valid).decode()
        except ValidationError as error:
            raise self._mistake(error) from None
        except PydanticSerializationError:
            raise TypeError(f"{self.name}: an argument is not what JSON can hold") from None
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
            return self.adapter.validate_json(text)
        except ValidationError as error:
            raise self._mistake(error) from None

    def _mistake(self, error: ValidationError) -> TypeError:
        told = error.errors(include_url=False, include_context=False, include_input=False)
        words = ", ".join(f"{'.'.join(map(str, each['loc']))}: {each['type']}" for each in told)
        return TypeError(f"{self.name}: {words}")


def _adapter(name: str, fields: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    make_type: Any = TypedDict
    try:
        return TypeAdapter(with_config(ConfigDict(extra="forbid"))(make_type(name, fields)))
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"{name}: a parameter has a type that no JSON has: {error}") from error
