"""What of a model learns, counted without making it: from the YAML, or from the files of an adapter."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from finetune.config.modules import is_in, is_like, left_alone, mapped
from finetune.config.schema import Config
from finetune.errors import ModelError
from finetune.estimate.shape import Shape, header, is_head, is_visual
from finetune.plain_json import read_json

Kind = Literal["full", "lora", "ia3", "prefix", "prompt"]

_KINDS: Mapping[str, Kind] = {
    "LORA": "lora",
    "IA3": "ia3",
    "PREFIX_TUNING": "prefix",
    "P_TUNING": "prompt",
    "PROMPT_TUNING": "prompt",
}
_USUAL = ("query_key_value",)
"""Where target_modules is not given and peft chooses: about these."""

_BUFFER = ".e_score_correction_bias"
"""Stored beside the weights of a router, and no weight."""

_ROUTER = r"(.*\.)?mlp\.gate"
"""That of experts is no module that peft adapts."""


@dataclass(frozen=True, slots=True)
class Method:
    """What learns. `trainable`: numbers. `whole`: those of them that are weights of the model itself.

    adapted: last names of the language model's modules with an adapter of rank `r`. dropped: whether it
    has dropout. looks: whether something of a vision tower learns, which then keeps what its layers made.
    """

    kind: Kind
    trainable: int
    whole: int = 0
    adapted: frozenset[str] = frozenset()
    r: int = 0
    dropped: bool = False
    virtual_tokens: int = 0
    looks: bool = False


def method_of(config: Config, shape: Shape) -> Method:
    """What `peft_config`, `model_config.adapter` or the absence of both make of a model. Raises ModelError."""
    if config.model.adapter is not None:
        return _of_adapter(Path(config.model.adapter), shape)
    if config.peft_config is None:
        return _full(shape, config.model.freeze or ())
    return _of_settings(config.peft_config.model_dump(), shape, config.model.freeze)


def lora_of(shape: Shape) -> Method:
    """GLM-4's usual adapter: rank 8 on queries, keys and values."""
    return _of_settings({"peft_type": "LORA", "r": 8, "target_modules": list(_USUAL)}, shape)


def _full(shape: Shape, freeze: tuple[str, ...]) -> Method:
    learning = {
        name: weight.count
        for name, weight in shape.weights.items()
        if not (any(is_like(name, pattern) for pattern in freeze) or name.endswith(_BUFFER))
    }
    count = sum(learning.values())
    return Method("full", count, count, looks=any(map(_is_of_tower, learning)))


def _is_of_tower(name: str) -> bool:
    return is_in(name, "tower")


def _of_adapter(folder: Path, shape: Shape) -> Method:
    where = folder / "adapter_config.json"
    try:
        settings = read_json(where)
        kind = _KINDS[settings["peft_type"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{where}: cannot be used: {error!r}") from None
    stored = header(folder / "adapter_model.safetensors")
    made = _of_settings({"num_virtual_tokens": 0, **settings}, shape)
    count = sum(weight.count for weight in stored.values())
    return replace(made, kind=kind, trainable=count)


def _of_settings(settings: Mapping[str, Any], shape: Shape, freeze: tuple[str, ...] | None = None) -> Method:
    kind = _KINDS[settings["peft_type"]]
    if kind in ("prefix", "prompt"):
        return _virtual(kind, settings, shape)
    saved = _saved(settings, shape)
    spared = left_alone(freeze, settings.get("target_modules"))
    modules = dict(_adapted(settings, shape, f"{_ROUTER}|{spared}" if spared else _ROUTER))
    names = frozenset(name.rsplit(".", 1)[-1] for name in modules if not is_visual(name))
    looks = any(map(_is_of_tower, modules))
    if kind == "ia3":
        return Method(kind, sum(out for _, out in modules.values()) + saved, saved, names, looks=looks)
    counts = [_rank(settings, name) * sum(sizes) for name, sizes in modules.items()]
    dropped = bool(settings.get("lora_dropout"))
    return Method(kind, sum(counts) + saved, saved, names, settings.get("r") or 8, dropped, looks=looks)


def _rank(settings: Mapping[str, Any], module: str) -> int:
    for pattern, rank in (settings.get("rank_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return int(rank)
    return int(settings.get("r") or 8)


def _saved(settings: Mapping[str, Any], shape: Shape) -> int:
    """Numbers in modules that are trained whole beside an adapter."""
    names = settings.get("modules_to_save") or ()
    return sum(w.count for name, w in shape.weights.items() if any(n in name.split(".") for n in names))


def _adapted(
    settings: Mapping[str, Any], shape: Shape, left_alone: str
) -> Iterator[tuple[str, tuple[int, int]]]:
    wanted, left = settings.get("target_modules") or list(_USUAL), settings.get("exclude_modules") or ()
    layers = settings.get("layers_to_transform")
    only = {layers} if isinstance(layers, int) else set(layers or ())
    free = [module for module in shape.linears if not re.fullmatch(left_alone, module)]
    if wanted == "all-linear":
        wanted = [module for module in free if not is_head(module)]
    for module, sizes in shape.linears.items():
        numbers = {int(part) for part in module.split(".") if part.isdigit()}
        chosen = _matches(module, wanted, shape) and not (left and _matches(module, left, shape))
        if chosen and not re.fullmatch(left_alone, module) and (not only or numbers & only):
            yield module, sizes


def _matches(module: str, wanted: str | list[str], shape: Shape) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    last = {name.rsplit(".", 1)[-1] for name in shape.linears}
    names = {new for name in wanted for new in mapped(name, last)}
    return any(module == name or module.endswith(f".{name}") for name in names)


def _virtual(kind: Kind, settings: Mapping[str, Any], shape: Shape) -> Method:
    tokens = int(settings["num_virtual_tokens"])
    width = shape.keys if kind == "prefix" else shape.hidden
    made = 2 * shape.layers * shape.keys if kind == "prefix" else shape.hidden
    inner = settings.get("encoder_hidden_size") or width
    count = tokens * made
    if settings.get("prefix_projection"):
        count = tokens * width + (width + 1) * inner + (inner + 1) * made
    elif settings["peft_type"] == "P_TUNING":
        count = tokens * width + (width + 1) * inner + (inner + 1) * inner + (inner + 1) * made
    saved = _saved(settings, shape)
    return Method(kind, count + saved, saved, virtual_tokens=tokens)
