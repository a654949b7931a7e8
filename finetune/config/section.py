"""What the sections of a configuration share: strict, frozen, closed to unknown keys; and kinds of values.

The string under a field is its help text; `reference` turns it into documentation.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict


class Section(BaseModel):
    """A map of the YAML. A value of another type than the field's is refused, never converted."""

    # Validators are built when the first Config is, once for all sections, which halves the time of the import.
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def _whole_above_one(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("a count of steps is a whole number; below 1 it is a share of the whole run")
    return int(value) if value >= 1 else value


OnlyFalse = Field(json_schema_extra={"const": False})
"""For a true or false that a validator refuses when true: says so in the JSON schema."""

Count = Annotated[int, Field(gt=0)]
"""A whole number, at least 1."""

Positive = Annotated[float, Field(gt=0)]

NotNegative = Annotated[float, Field(ge=0)]

Share = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 up to, but not including, 1."""

Steps = Annotated[float, Field(gt=0), AfterValidator(_whole_above_one)]
"""A count of optimizer steps, or below 1 a share of all steps of the run."""

StepsOrNone = Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)]
"""As Steps; 0 is allowed and means none."""

Texts = Annotated[tuple[str, ...], Strict(False)]
"""A list of texts. Lenient on the outside only: YAML and JSON have lists where we keep tuples."""


def is_same(value: object, other: object) -> bool:
    """Equal and of one type: in Python, 1 equals True and 0 equals False."""
    return type(value) is type(other) and value == other
