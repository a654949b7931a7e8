"""What to write in place of a wrong value, where that can be known."""

import re
from collections.abc import Sequence
from typing import Any

from finetune.config.names import closest, spelt

_YAML_1_1 = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}

_SYNONYMS = {
    "adamw": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "4bit": "nf4",
    "int4": "nf4",
    "8bit": "int8",
    "flash_attention_2": "flat",
    "prefix": "PREFIX_TUNING",
    "ptuning_v2": "PREFIX_TUNING",
    "openai": "messages",
    "false": "no",
    "off": "no",
}
"""Other spellings of values that one may choose."""


def remedy(value: Any, wanted: str) -> str:
    """What to do about a value that is not `wanted`, behind a semicolon; empty where nobody can know."""
    match value:
        case str():
            advice = _of_text(value, wanted)
        case bool() | int() | float() if wanted == "a text":
            advice = "put it in quotes"
        case 0 | 1 if wanted == "true or false":
            advice = f"write {spelt(bool(value))}"
        case float() if "a whole number" in wanted and value.is_integer():
            advice = f"write {int(value)}"
        case [{}, *_] if wanted == "a map":
            advice = "remove the dashes"
        case _:
            advice = None
    return f"; {advice}" if advice else ""


def _of_text(text: str, wanted: str) -> str | None:
    if "true or false" in wanted and text.lower() in _YAML_1_1:
        return f"YAML 1.2 writes {_YAML_1_1[text.lower()]}"
    if text in ("None", "none", "NULL", "nil"):
        return "YAML writes null, or leave the key out"
    if "true or false" in wanted and text.lower() in ("true", "false"):
        return "write it without quotes"
    if "number" in wanted:
        return _number_in(text)
    if wanted == "a map" and (entry := re.fullmatch(r"(\w+) *[=:] *(.+)", text)):
        return f"write {entry[1]}: {entry[2]}, with a space behind the colon"
    return f"write [{text}]" if wanted == "a list" else None


def _number_in(text: str) -> str | None:
    """How YAML 1.2 writes the number that a text was meant to be."""
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.ASCII | re.IGNORECASE):
        return "write it without quotes"
    if re.fullmatch(r"\d{1,3}([ ,']\d{3})+", text, re.ASCII):
        return f"write {re.sub('[^0-9]', '', text)}"
    if sexagesimal := re.fullmatch(r"(\d+):([0-5]?\d)", text, re.ASCII):
        minutes, seconds = map(int, sexagesimal.groups())
        return f"YAML 1.1 read that as {60 * minutes + seconds}; write the number"
    return None


def hint_of_choice(value: Any, choices: Sequence[str]) -> str:
    """Which of `choices` a wrong value may have meant, behind a semicolon."""
    if isinstance(value, bool | str) and (close := close_choice(spelt(value).strip('"'), choices)):
        return f"; did you mean {close}?"
    return remedy(value, "one of several") if isinstance(value, str) else ""


def close_choice(value: str, choices: Sequence[str]) -> str | None:
    """The one of `choices` that `value` is another spelling of."""
    synonym = _SYNONYMS.get(value.lower())
    return synonym if synonym in choices else closest(value, choices)
