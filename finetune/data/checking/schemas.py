"""Whether the arguments of a call fit the JSON Schema of its tool."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import SchemaError, ValidationError
    from jsonschema.protocols import Validator

_SHOWN = 3  # misfits of one call
_LONGEST = 160  # characters of one


class UnusableSchemaError(ValueError):
    """A JSON Schema that nothing can be compared with, and why."""


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises UnusableSchemaError if `schema` is no JSON Schema. None at all fits everything."""
    if schema:
        try:
            _usable(json.dumps(schema))
        except RecursionError:
            raise UnusableSchemaError("it is nested too deeply") from None


def misfits(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[str]:
    """The first places where `arguments` do not fit. Raises UnusableSchemaError."""
    from referencing.exceptions import Unresolvable

    if not schema:
        return []
    try:
        errors = _usable(json.dumps(schema)).iter_errors(arguments)
        return [_told(error) for error in islice(errors, _SHOWN)]
    except Unresolvable as error:
        raise UnusableSchemaError(f"its $ref leads nowhere: {error}") from None
    except re.error as error:
        raise UnusableSchemaError(
            f"the pattern {error.pattern!r} is no regular expression: {error.msg}"
        ) from None
    except RecursionError:
        raise UnusableSchemaError("it refers to itself without end") from None


def _usable(schema_text: str) -> "Validator":
    found = _validator(schema_text)
    if isinstance(found, str):
        raise UnusableSchemaError(found)
    return found


@lru_cache(maxsize=4096)
def _validator(schema_text: str) -> "Validator | str":
    """The validator of a schema, or what is wrong with it: a data set has few schemas and many calls."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = json.loads(schema_text)
    if not isinstance(schema.get("$schema", ""), str):
        return "$schema: expected the address of a schema, as text"
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        return _told(error)
    # With an empty registry: the default one looks a $ref up on the network.
    return kind(schema, registry=Registry())


def _told(error: "ValidationError | SchemaError") -> str:
    place = error.json_path.removeprefix("$").removeprefix(".")
    told = f"{error.instance!r} is no type" if place.endswith("type") and error.context else error.message
    return f"{place}: {told}"[:_LONGEST] if place else told[:_LONGEST]
