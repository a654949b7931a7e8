"""What pydantic found wrong, in words, at the place in the file where it stands."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune.config.conflicts import ConflictsError
from finetune.config.draft import Draft, KeyPath, Mistake, dotted
from finetune.config.names import closest, explain_unknown, legal_keys, spelt
from finetune.config.remedies import close_choice, hint_of_choice, remedy
from finetune.config.tuning import TUNINGS, UNTRAINED

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
}
_RANGES = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def note_mistakes(draft: Draft, error: ValidationError, aside: AbstractSet[KeyPath]) -> set[KeyPath]:
    """Note in `draft` what `error` holds, but for paths put `aside` before; returns those that are wrong."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        conflicts = detail.get("ctx", {}).get("error")
        if isinstance(conflicts, ConflictsError):
            _note_conflicts(draft, conflicts)
        else:
            path = _yaml_path(draft, detail)
            put_aside = path in aside or (detail["type"] == "missing" and draft.has(path))
            if not put_aside:
                found.setdefault(path, []).append(detail)
    for path, details in found.items():
        inner = any(other != path and other[: len(path)] == path for other in found)
        if not inner and not _told(draft, path):
            _note(draft, path, details)
    return set(found)


def _told(draft: Draft, path: KeyPath) -> bool:
    """Whether this very value was refused when the file was read, by how it is spelt."""
    place, key = draft.value_place(path), dotted(path)
    return any(mistake.place == place and mistake.key == key for mistake in draft.mistakes)


def _note_conflicts(draft: Draft, conflicts: ConflictsError) -> None:
    """Leave out those that rest on a key which is wrong in itself, and stands at its default meanwhile."""
    wrong = {mistake.key for mistake in draft.mistakes}
    for conflict in conflicts.conflicts:
        if not wrong & set(conflict.keys):
            draft.refuse(tuple(conflict.keys[0].split(".")), conflict.message)


def _yaml_path(draft: Draft, detail: ErrorDetails) -> KeyPath:
    """Where in the YAML: pydantic's location without the names of sections and union members."""
    path: KeyPath = ()
    last = len(detail["loc"]) - 1
    for i, key in enumerate(detail["loc"]):
        if draft.has((*path, key)) or (i == last and detail["type"] == "missing"):
            path = (*path, key)
    return path


def _note(draft: Draft, path: KeyPath, details: Sequence[ErrorDetails]) -> None:
    kind = details[0]["type"]
    if kind == "extra_forbidden":
        draft.refuse(path, explain_unknown(draft, path))
    elif kind == "missing":
        if not _misspelt(draft, path):
            draft.refuse(path, "is missing, and is needed")
    elif kind == "union_tag_not_found":
        if not _misspelt(draft, (*path, "peft_type")):
            draft.refuse((*path, "peft_type"), f"is missing, and is needed: one of {', '.join(TUNINGS)}")
    elif kind == "union_tag_invalid":
        path = (*path, "peft_type")
        draft.refuse(path, _no_tuning(draft.get(path)), value=True)
    else:
        value = draft.get(path)
        draft.refuse(path, wrong_value(value, details) + _of_place(path, value), value=True)


NEEDED = frozenset(["data_config", "train_file", "file", "peft_type", "num_virtual_tokens"])
"""Keys that have no default."""


def _of_place(path: KeyPath, value: Any) -> str:
    """What to do about a wrong value that depends on where it stands."""
    match path:
        case ("data_config", "train_file", int()) if isinstance(value, str):
            return f"; write {{file: {value}}}"
        case (*_, str(key)) if value is None:
            return "; it is needed" if key in NEEDED else "; leave the key out for its default"
    return ""


def likely_peft_type(peft_config: Any) -> str | None:
    """What a peft_config whose peft_type is wrong or missing was meant to be; None where nobody can know."""
    if not isinstance(peft_config, dict):
        return None
    if (given := peft_config.get("peft_type")) is not None:
        return close_choice(given, list(TUNINGS)) if isinstance(given, str) else None
    known = peft_config.keys() & frozenset().union(*(section.model_fields for section in TUNINGS.values()))
    return next((kind for kind, section in TUNINGS.items() if known <= section.model_fields.keys()), None)


def _no_tuning(kind: Any) -> str:
    """What to say of a peft_type that we do not train."""
    if isinstance(kind, str) and kind in UNTRAINED:
        return f"{kind} cannot be trained here: {UNTRAINED[kind]}"
    return _one_of(kind, list(TUNINGS))


def _misspelt(draft: Draft, path: KeyPath) -> bool:
    """Whether the missing key stands there under a name that is told to be a mistake anyway."""
    siblings = draft.get(path[:-1])
    return any(closest(key, [str(path[-1])]) for key in siblings if key not in legal_keys(draft, path[:-1]))


def wrong_value(value: Any, details: Sequence[ErrorDetails]) -> str:
    """One sentence for all that the members of a union say about one value."""
    first = details[0]
    ctx = first.get("ctx", {})
    kinds = [detail["type"] for detail in details]
    if "value_error" in kinds:
        return str(details[kinds.index("value_error")]["ctx"]["error"])
    if first["type"] == "finite_number":
        return f"expected a finite number, found {value}"
    if first["type"] in _RANGES and len(details) == 1:
        bound, word = _RANGES[first["type"]]
        return f"expected a value {word} {ctx[bound]:.10g}, found {describe(value)}"
    if kinds == ["literal_error"]:
        return _one_of(value, _choices(first))
    if kinds == ["too_short"] or kinds == ["string_too_short"]:
        return "is empty; remove the key, or fill it in"
    return _expected(value, details)


def _expected(value: Any, details: Sequence[ErrorDetails]) -> str:
    names = [_what(detail) for detail in details]
    if any(name is None for name in names):
        return f"{details[0]['msg']}, found {describe(value)}"
    return unexpected(value, " or ".join(dict.fromkeys(str(name) for name in names)))


def _what(detail: ErrorDetails) -> str | None:
    if detail["type"] == "literal_error":
        return ", ".join(_choices(detail))
    if detail["type"] in _RANGES:
        bound, word = _RANGES[detail["type"]]
        return f"a number {word} {detail['ctx'][bound]:.10g}"
    return _TYPES.get(detail["type"])


def _choices(detail: ErrorDetails) -> list[str]:
    """The alternatives in pydantic's `'a', 'b' or 'c'`."""
    text = str(detail["ctx"]["expected"]).replace(" or ", ", ")
    return [choice.strip("'") for choice in text.split(", ")]


def _one_of(value: Any, choices: Sequence[str]) -> str:
    one_of = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return f"expected {one_of}, found {describe(value)}{hint_of_choice(value, choices)}"


def unexpected(value: Any, wanted: str) -> str:
    """What to say of a value that is not what was `wanted`."""
    return f"expected {wanted}, found {describe(value)}{remedy(value, wanted)}"


def describe(value: Any) -> str:
    """What stands there, as the reader of the file sees it."""
    match value:
        case dict():
            return "a map"
        case list():
            return "a list"
        case str():
            return f'the text "{_shortened(value)}"'
        case _:
            return _shortened(spelt(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def in_reading_order(mistakes: Iterable[Mistake], first: str) -> list[Mistake]:
    """Top to bottom of the file `first`, then of the files it names, then the command line."""

    def order(mistake: Mistake) -> tuple[bool, bool, int, int]:
        place = mistake.place
        return (place.line == 0, place.source != first, place.line, place.column)

    return sorted(mistakes, key=order)
