"""Which layout a model trains in: flat wherever that is exact, single where it is not, and the reason said."""

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune.data.encode import Example
from finetune.errors import ConfigError
from finetune.model.attention import FLAT, Layout, stock_attention, use_attention, why_not_flat
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.tuned import Tuned

# Of the length of a position's logits. Rounding stays below; a leak, a forgotten prefix or a window is above.
_TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
_LONGEST = 192
"""Tokens of the longer conversation that is compared: some blocks of attention. Windows are known before."""
_COMPARED = 16
"""Positions at the end of each conversation: the logits of all would fill the memory."""


def choose_layout(
    tuned: Tuned, wanted: str, longest: int, device: torch.device | None = None
) -> tuple[Layout, str]:
    """The layout and why, for conversations of up to `longest` tokens; `wanted` is `model_config.attention`.

    device: where the model computes; None: where its weights lie.

    Raises ConfigError when flat is demanded of a model that would be wrong in it.
    """
    if wanted == "single":
        return "single", "asked for"
    reason = _why_single(tuned, longest, device or tuned.base.device)
    if reason is None:
        return "flat", "no padding, no conversation sees another"
    if wanted == "flat":
        raise ConfigError(f"model_config.attention: flat: {reason}; use auto or single")
    return "single", reason


def use_layout(tuned: Tuned, layout: Layout) -> None:
    """Switch the model's attention to what the layout needs."""
    use_attention(tuned.base, FLAT if layout == "flat" else stock_attention(tuned.base))


def _why_single(tuned: Tuned, longest: int, device: torch.device) -> str | None:
    if tuned.kind == "prompt":
        return "virtual tokens of a prompt stand once in a row, not once in a conversation"
    reason = why_not_flat(tuned.base, longest)
    if reason is not None:
        return reason
    difference = _flat_against_stock(tuned, longest, device)
    if not difference <= tolerance(tuned.base, tuned.compute_dtype):  # NaN is no agreement
        return f"flat and stock attention differ by {difference:.1e} on this model"
    return None


def tolerance(model: PreTrainedModel, dtype: torch.dtype) -> float:
    """How far `apart` logits may be that should be the same, of a model that computes in `dtype`."""
    quantized = "quantization_config" in model.config.to_dict()  # computes in less than its dtype
    return max(_TOLERANCE.values()) if quantized else _TOLERANCE[dtype]


def apart(logits: torch.Tensor, others: torch.Tensor) -> float:
    """The distance of the two (positions, vocabulary) where it is largest, as a share of `others`' length."""
    difference = (logits.float() - others.float()).norm(dim=1)
    return float((difference / others.float().norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)).max())


@torch.no_grad()
def _flat_against_stock(tuned: Tuned, longest: int, device: torch.device) -> float:
    """By how much the logits of two made-up conversations differ where they differ most.

    Logits, because a mean loss hides the whole of the second conversation behind the first.
    """
    vocabulary = tuned.base.config.get_text_config().vocab_size
    examples = [_made_up(length, vocabulary) for length in (max(8, min(longest, _LONGEST)), 7)]
    flat = _logits(tuned, "flat", [examples], device)
    single = _logits(tuned, "single", [[example] for example in examples], device)
    return apart(flat, single)


def _logits(
    tuned: Tuned, layout: Layout, micro_batches: list[list[Example]], device: torch.device
) -> torch.Tensor:
    """(positions, vocabulary) float32 over all conversations."""
    use_layout(tuned, layout)
    narrow = tuned.base_dtype if tuned.mixed else None
    objective = SupervisedLoss(tuned, flat=layout == "flat", autocast_dtype=narrow).eval()
    batches = [collate(examples).to(device) for examples in micro_batches]
    return torch.cat([objective.logits(batch, batch.rows).float() for batch in batches])


def _made_up(length: int, vocabulary: int) -> Example:
    ids = np.arange(length) * (97 + 2 * length) % vocabulary
    return Example(ids.astype(np.int32), np.arange(length) >= length - _COMPARED)
