"""The YAML as a JSON Schema, for editors: `python -m finetune.config.json_schema > configs/schema.json`.

Draft 7, which every editor reads. It says what single keys may be; which of them cannot both hold, and whether
files are there, `finetune train` says before anything is loaded.
"""

import json
from collections.abc import Mapping
from typing import Any

from finetune.config import fsdp_keys, peft_keys
from finetune.config.keys import PLACES, Key, keys_of
from finetune.config.legacy import RENAMED
from finetune.config.section import Section
from finetune.config.transformers_keys import ADVICE, GENERATION_KEYS, NO_EFFECT, NOT_HONOURED
from finetune.config.tuning import TUNINGS

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The whole schema."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "finetune: what a training run is asked to do",
        **_level(""),
    }


def as_text() -> str:
    """As configs/schema.json holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _level(level: str) -> Schema:
    """The map at a dotted level."""
    if level == "peft_config":
        return _by_peft_type()
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for section in PLACES[level]:
        properties |= _properties(level, section)
        required += _needed(level, section)
    return _closed(properties | _others(level), required)


def _closed(properties: Mapping[str, Schema], required: list[str]) -> Schema:
    closed = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return closed | ({"required": required} if required else {})


def _properties(level: str, section: type[Section]) -> dict[str, Schema]:
    return {key.name: _property(key) for key in keys_of(level, section)}


def _needed(level: str, section: type[Section]) -> list[str]:
    return [key.name for key in keys_of(level, section) if key.default == "needed"]


def _property(key: Key) -> Schema:
    shape = {name: value for name, value in key.shape.items() if name not in ("title", "discriminator", "$ref")}
    if key.path == "data_config.train_file":
        shape["oneOf"] = [{"type": "string"}, {"type": "array", "items": _level(key.path), "minItems": 1}]
    elif key.path in PLACES:
        shape = _level(key.path)
    elif key.level == "training_args.generation_config":
        shape = {"anyOf": [shape, {"type": "null"}]}
    if "null" in key.value.split() and shape.get("type") == "object":
        shape["type"] = ["object", "null"]
    return {"description": key.text, **shape}


def _by_peft_type() -> Schema:
    """One set of keys for every kind of adapter."""
    kinds = [
        {
            "if": {
                "type": "object",
                "properties": {"peft_type": {"const": kind}},
                "required": ["peft_type"],
            },
            "then": _closed(
                _properties("peft_config", section)
                | _not_honoured(peft_keys.NOT_HONOURED[kind], peft_keys.ADVICE),
                _needed("peft_config", section),
            ),
        }
        for kind, section in TUNINGS.items()
    ]
    return {
        "type": "object",
        "properties": {"peft_type": {"description": "Which adapter.", "enum": list(TUNINGS)}},
        "required": ["peft_type"],
        "allOf": kinds,
    }


def _not_honoured(keys: Mapping[str, object], advice: Mapping[str, str]) -> dict[str, Schema]:
    """Keys that a library knows and we do not honour: accepted where the library itself puts them."""
    return {
        key: {"const": default, "description": f"Not honoured. {advice.get(key, 'Remove it.')}"}
        for key, default in keys.items()
    }


def _others(level: str) -> dict[str, Schema]:
    """What is accepted at a level besides the keys of today."""
    renamed = {str(old[-1]): new for old, new in RENAMED.items() if ".".join(map(str, old[:-1])) == level}
    old = {name: _deprecated(_shape_at(new), f"It is called {new[-1]} here.") for name, new in renamed.items()}
    if level == "training_args":
        return old | _more_training_args()
    if level == "training_args.fsdp_config":
        return _with_prefix(level, old | _more_fsdp_options())
    if level == "training_args.generation_config":
        return _not_honoured(dict.fromkeys(sorted(GENERATION_KEYS)), {})
    return old | _UPSTREAM if level == "" else old


def _more_training_args() -> dict[str, Schema]:
    without_effect: dict[str, Schema] = {
        key: {"description": f"Has no effect: {entry.why}."} for key, entry in NO_EFFECT.items()
    }
    without_effect["save_safetensors"]["not"] = {"const": False}
    share = {"type": ["number", "null"], "minimum": 0, "exclusiveMaximum": 1}
    return {
        **_not_honoured(NOT_HONOURED, ADVICE),
        **without_effect,
        "warmup_ratio": _deprecated(share, "warmup_steps below 1 is a share of all steps."),
        "adafactor": _deprecated({"type": "boolean"}, "It is optim: adafactor here."),
    }


def _more_fsdp_options() -> dict[str, Schema]:
    without_effect = fsdp_keys.NO_EFFECT.items()
    return {
        **_not_honoured(fsdp_keys.NOT_HONOURED, fsdp_keys.ADVICE),
        **{key: {"description": f"Has no effect: {entry.why}."} for key, entry in without_effect},
    }


def _with_prefix(level: str, others: Mapping[str, Schema]) -> dict[str, Schema]:
    """accelerate's spelling of every key of fsdp_config, besides `others` as they are."""
    every = {**others, **_properties(level, *PLACES[level])}
    prefixed = {f"fsdp_{key}": _deprecated(shape, f"It is called {key} here.") for key, shape in every.items()}
    return {**others, **prefixed}


def _deprecated(shape: Schema, why: str) -> Schema:
    return {**shape, "description": why, "deprecated": True, "deprecationMessage": why}


_UPSTREAM: dict[str, Schema] = {
    "combine": _deprecated({"type": "boolean"}, "true is data_config.train_on: last."),
    "freezeV": _deprecated({"type": "boolean"}, "true is model_config.freeze: [vision]."),
    "swanlab": _deprecated({}, "It has no effect; training_args.report_to: swanlab has."),
}
"""Keys of GLM-4's finetune_demo at the top level."""


def _shape_at(path: tuple[str | int, ...]) -> Schema:
    """What a renamed key may be: the same as under its new name, or null."""
    *level, name = map(str, path)
    sections = PLACES[".".join(level)]
    key = next(key for section in sections for key in keys_of(".".join(level), section) if key.name == name)
    return {"anyOf": [_property(key), {"type": "null"}]}


if __name__ == "__main__":
    print(as_text(), end="")
