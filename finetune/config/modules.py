"""What configurations call the modules and parts of a model, and what transformers' classes call them."""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch

OLD_NAMES = {
    "query_key_value": (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("c_attn",)),
    "dense": (("o_proj",), ("out_proj",)),
    "dense_h_to_4h": (("gate_up_proj",), ("gate_proj", "up_proj")),
    "dense_4h_to_h": (("down_proj",),),
    "output_layer": (("lm_head",),),
    "word_embeddings": (("embed_tokens",),),
}
"""The fused names of ChatGLM's own code, and what transformers' classes call the same weights."""

_PROJECTOR = r"(merger|downsample|deepstack_merger_list)"
PARTS: Mapping[str, str] = {
    "vision": r"(.*\.)?visual\..*",
    "tower": rf"(.*\.)?visual\.(?!{_PROJECTOR}\b).*",
    "projector": rf"(.*\.)?visual\.{_PROJECTOR}(\..*)?",
}
"""The parts of a model that sees, for `freeze`: patterns of the whole names of their modules and weights."""


def is_in(name: str, part: str) -> bool:
    """Whether a module or weight, by its whole name, is of this one of PARTS."""
    return re.fullmatch(PARTS[part], name) is not None


def is_like(name: str, pattern: str) -> bool:
    """Whether an entry of `freeze` means a weight: one of PARTS, or a pattern of names."""
    return is_in(name, pattern) if pattern in PARTS else fnmatch(name, f"*{pattern}*")


def left_alone(freeze: Sequence[str] | None, targets: str | Sequence[str] | None) -> str | None:
    """A pattern of the modules of a model that sees which get no adapter; None: all may have one.

    `freeze` None: a vision tower and its projector. A pattern of `targets` means just what it says then.
    """
    exact = isinstance(targets, str) and targets != "all-linear"
    parts = (() if exact else ("vision",)) if freeze is None else freeze
    return "|".join(PARTS[part] for part in parts) or None


def mapped(name: str, last: Collection[str]) -> tuple[str, ...]:
    """What `name` is called in a model whose modules have the last names `last`; itself where nobody knows."""
    if name in last or name not in OLD_NAMES:
        return (name,)
    return next((new for new in OLD_NAMES[name] if set(last).issuperset(new)), (name,))
