"""Every key of the YAML as documentation shows it: its place, what it may be, its default and its help text."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, get_args

from pydantic import BaseModel

from finetune.config.arguments import SECTIONS
from finetune.config.fsdp import FsdpConfig
from finetune.config.generation import GenerationConfig
from finetune.config.placement import GradientCheckpointing
from finetune.config.schema import (
    Config,
    DataConfig,
    EarlyStopping,
    EvaluationConfig,
    FileShare,
    ModelConfig,
    RunConfig,
)
from finetune.config.section import Section
from finetune.config.tuning import TUNINGS, BlockDiagonal

PLACES: Mapping[str, tuple[type[Section], ...]] = {
    "": (Config,),
    "data_config": (DataConfig,),
    "data_config.train_file": (FileShare,),
    "model_config": (ModelConfig,),
    "peft_config": tuple(TUNINGS.values()),
    "peft_config.use_bdlora": (BlockDiagonal,),
    "training_args": tuple(SECTIONS.values()),
    "training_args.fsdp_config": (FsdpConfig,),
    "training_args.generation_config": (GenerationConfig,),
    "training_args.gradient_checkpointing_kwargs": (GradientCheckpointing,),
    "run": (RunConfig,),
    "run.early_stopping": (EarlyStopping,),
    "evaluation": (EvaluationConfig,),
}
"""Dotted level -> the sections whose keys stand there, flat."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key. level: the dotted map it stands in; shape: its JSON schema; kinds: the peft_types with it."""

    level: str
    name: str
    value: str
    default: str
    text: str
    shape: Mapping[str, Any]
    kinds: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The dotted place, such as `training_args.learning_rate`."""
        return f"{self.level}.{self.name}".removeprefix(".")


@cache
def every_key() -> Sequence[Key]:
    """All keys of all levels in the order of the schema; what several kinds of adapter share stands once."""
    found: dict[tuple[str, ...], Key] = {}
    for level, sections in PLACES.items():
        for key in (key for section in sections for key in keys_of(level, section)):
            which = (key.path, key.text, key.default, "" if key.name == "peft_type" else key.value)
            found[which] = _both(found[which], key) if which in found else key
    return tuple(found.values())


def keys_of(level: str, section: type[Section]) -> Iterator[Key]:
    """The keys of one section, `peft_type` first."""
    schema = section.model_json_schema()
    texts = help_texts(section)
    kinds = get_args(section.model_fields["peft_type"].annotation) if level == "peft_config" else ()
    for name, field in sorted(section.model_fields.items(), key=lambda item: item[0] != "peft_type"):
        shape = schema["properties"][field.alias or name]
        default = _default(shape, field.is_required())
        yield Key(level, field.alias or name, spell(shape), default, texts[name], shape, kinds)


def _both(key: Key, other: Key) -> Key:
    value = key.value if key.value == other.value else f"{key.value}, {other.value}"
    return replace(key, value=value, kinds=key.kinds + other.kinds)


def help_texts(section: type[BaseModel]) -> dict[str, str]:
    """Field -> the string under it, for a section and those it extends, the base's fields first."""
    texts: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if issubclass(cls, Section) and cls is not Section:
            texts |= dict(_strings_under_fields(cls))
    return {field: texts.get(field, "") for field in section.model_fields}


def _strings_under_fields(cls: type) -> Iterator[tuple[str, str]]:
    body = _classes_of(cls.__module__)[cls.__name__].body
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())


@cache
def _classes_of(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _default(shape: Mapping[str, Any], required: bool) -> str:
    default = shape.get("default", {})
    if required:
        return "needed"
    return "" if isinstance(default, dict) else in_yaml(default)


def in_yaml(value: object) -> str:
    """A default as YAML spells it, texts without quotes."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return f"[{', '.join(map(str, value))}]"
        case "":
            return '""'
        case _:
            return str(value)


_RANGES = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true, false",
    "null": "null",
}


def spell(shape: Mapping[str, Any]) -> str:
    """A JSON schema in a few words, choices in backquotes."""
    if "anyOf" in shape or "oneOf" in shape:
        ways = dict.fromkeys(spell(one) for one in shape.get("anyOf") or shape["oneOf"])
        lists = {f"list of {way}": "a list of these" for way in ways}
        return " or ".join(dict.fromkeys(lists.get(way, way) for way in ways))
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{in_yaml(choice)}`" for choice in shape.get("enum") or [shape["const"]])
    match shape.get("type"):
        case "array":
            return f"list of {spell(shape.get('items', {}))}"
        case str(kind) if kind in _KINDS:
            bounds = [f"{sign} {shape[name]:.10g}" for name, sign in _RANGES.items() if name in shape]
            return " ".join([_KINDS[kind], *bounds])
        case _:
            return "map"
