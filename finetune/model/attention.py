"""Attention over a flat batch: conversations end to end in one row, none of which sees another.

Registered with transformers' attention interface under the name FLAT; the borders of the conversations ride
along as a keyword of the model call and reach every layer. What this function does not implement (sliding
windows, soft caps, attention sinks) it refuses, because ignoring such an argument would be silently wrong;
those models train in the single layout, on their stock attention.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel

from finetune.model.blockwise import LONGEST, blockwise_attention
from finetune.model.joined import is_joined, joined_attention

Layout = Literal["flat", "single"]

FLAT = "finetune_flat"
STOCK = "sdpa"
PLAIN = "eager"
_WIDEST_HEAD = 256
"""Of FlashAttention."""

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequence[int], float], torch.Tensor]

_UNSUPPORTED = {"softcap": "soft-capped logits", "s_aux": "attention sinks", "head_mask": "head masks"}


def stock_attention(model: PreTrainedModel) -> str:
    """What is exact on this model: torch's attention, or where that lacks something (soft caps) plain sums."""
    return STOCK if model._supports_sdpa else PLAIN


def use_attention(model: PreTrainedModel, name: str) -> None:
    """Have the language model compute attention by this name; a vision tower beside it keeps its own."""
    whole = model.config.get_text_config() is model.config
    model.set_attn_implementation(name if whole else {"text_config": name})


def attention_in_use(model: PreTrainedModel) -> str:
    """The name by which the language model computes attention."""
    return str(model.config.get_text_config()._attn_implementation)


def flat_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    borders: Sequence[int] | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each conversation of a flat batch.

    query (1, H, T, D); key and value (1, KV, P + T, D), where P keys of a prefix come first and are seen by
    every conversation. `borders` (C + 1 offsets from 0 to T) are where conversations begin and end. Returns
    (1, T, H, D). Raises RuntimeError without borders, with a mask, or with an argument it does not implement.
    """
    if borders is None or attention_mask is not None:
        raise RuntimeError("flat attention needs the borders of the conversations, and takes no mask")
    longest = max(b - a for a, b in pairwise(borders))
    _refuse_unsupported(arguments, longest)
    fast = None if dropout else _fast_attention(query, key, value, longest)
    if fast is not None:
        scaling = query.shape[3] ** -0.5 if scaling is None else scaling
        return fast(query, key, value, borders, scaling), None
    prefix = key.shape[2] - query.shape[2]
    rows = [
        _attend(query, key, value, start, stop, prefix, scaling, dropout) for start, stop in pairwise(borders)
    ]
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _fast_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, longest: int
) -> Attention | None:
    """What computes all conversations of a row at once; None: torch's attention, one after the other."""
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    if query.device.type == "cuda" and narrow and query.shape[3] <= _WIDEST_HEAD:
        from finetune.model.varlen import varlen_attention  # seconds to import, and for GPUs only

        return varlen_attention
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and longest <= LONGEST:
        return blockwise_attention
    return joined_attention if is_joined(query, key, value) else None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    start: int,
    stop: int,
    prefix: int,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """One conversation's attention: (1, H, stop - start, D)."""
    own = slice(prefix + start, prefix + stop)
    keys, values, mask = key[:, :, own], value[:, :, own], None
    if prefix:
        keys = torch.cat((key[:, :, :prefix], keys), dim=2)
        values = torch.cat((value[:, :, :prefix], values), dim=2)
        # `is_causal` aligns query 0 with key 0; behind a prefix it stands at key `prefix`.
        shape = (stop - start, prefix + stop - start)
        mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(prefix)
    return scaled_dot_product_attention(
        query[:, :, start:stop],
        keys,
        values,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _refuse_unsupported(arguments: Mapping[str, Any], longest: int) -> None:
    for name, what in _UNSUPPORTED.items():
        if arguments.get(name) is not None:
            raise RuntimeError(f"flat attention does not implement {what} ({name})")
    window = arguments.get("sliding_window")
    if window is not None and longest > window:
        raise RuntimeError(
            f"flat attention does not implement a sliding window of {window} over {longest} tokens"
        )


AttentionInterface.register(FLAT, flat_attention)
AttentionMaskInterface.register(FLAT, lambda *_, **__: None)


def why_not_flat(model: PreTrainedModel, longest: int) -> str | None:
    """The reason this model cannot train flat on conversations of up to `longest` tokens; None when it can."""
    config: PretrainedConfig = model.config.get_text_config()
    settings = config.to_dict()
    if not model.is_backend_compatible():
        return f"{type(model).__name__} does not take attention functions"
    if settings.get("attn_logit_softcapping") is not None:
        return "the model soft-caps its attention logits"
    window = settings.get("sliding_window")
    if window is not None and settings.get("use_sliding_window", True) and longest > window:
        return f"the model has a sliding window of {window} tokens, the data conversations of {longest}"
    if any("sinks" in name for name, _ in model.named_parameters()):
        return "the model has attention sinks"
    layer_types = set(settings.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    return f"the model has {', '.join(sorted(layer_types))} layers" if layer_types else None
