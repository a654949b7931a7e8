"""What does not work on shares of a model, and why: asked of a YAML, and of an adapter that is loaded."""

from collections.abc import Mapping
from typing import Any

_ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Optimizers that update each number by itself: a part of a weight is updated as in the whole."""
_WHOLE = {
    "adafactor": "keeps means over whole rows and columns",
    "adagrad": "has not been tried on parts",
    "rmsprop": "has not been tried on parts",
}
_IN_BLOCKS = "keeps its memory in blocks that sharding would cut"

_PROMPTS = ("PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING")


def why_not_in_parts(optim: str) -> str | None:
    """The reason why an optimizer cannot have its memory shared out; None where it can."""
    return None if optim in _ELEMENTWISE else f"{optim} {_WHOLE.get(optim, _IN_BLOCKS)}"


def why_not_shared(peft: Mapping[str, Any], how: str) -> str | None:
    """The reason why an adapter, as peft describes it, cannot train under `fsdp` or `zero-<stage>`.

    peft's code for these reads a weight outside the forward of the layer that holds it, where only a share of
    it is there.
    """
    kind = str(getattr(peft.get("peft_type"), "value", peft.get("peft_type")))
    if kind in _PROMPTS and peft.get("modules_to_save"):
        return f"{kind} with modules_to_save cannot be saved from shares"
    if how == "fsdp" and kind in ("P_TUNING", "PROMPT_TUNING"):
        return f"{kind} asks the embeddings outside the model's forward, where FSDP holds shares of them"
    if how == "zero-3" and kind == "IA3":
        return "peft's IA3 cannot read weights that ZeRO-3 shares out"
    for option in ("use_dora", "trainable_token_indices"):
        if how == "zero-3" and peft.get(option):
            return f"peft's {option} cannot read weights that ZeRO-3 shares out"
    return None
