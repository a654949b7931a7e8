"""What transformers' `generate` is given: prompts padded on the left, and `Sampling` in its own words.

Virtual tokens of a prefix or prompt are put in place here, at the positions they had in training (peft's own
`generate` counts a row's padding into them):

    prefix   cache: P keys and values, row: [dummy × P] [pad] [prompt]; transformers resumes behind the cache
    prompt   embeddings of the row: [pad] [virtual × P] [prompt]
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import GenerationConfig, PreTrainedModel

from finetune.chat.template import ChatTemplate
from finetune.data.encode import Prompt
from finetune.infer.engine import Sampling
from finetune.model.vision import Vision


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, (B, longest) int64 each, the prompts at the right edge."""
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def showing(
    ids: torch.Tensor, prompts: Sequence[Prompt], vision: Vision, device: torch.device
) -> dict[str, torch.Tensor]:
    """What else the model is given for prompts whose ids (B, T) these are, where some of them have pictures."""
    pictures = [picture for prompt in prompts for picture in prompt.pictures]
    if not pictures:
        return {}
    patches, grids = (part.to(device) for part in vision.patches(pictures))
    kinds = (ids == vision.sight.token).to(torch.int32)
    return {"pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": kinds}


@contextmanager
def given_once(model: PreTrainedModel, more: Mapping[str, Any]) -> Iterator[None]:
    """While this is entered, the next forward of `model` is given these arguments too, once."""
    handles: list[RemovableHandle] = []

    def give(module: nn.Module, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        handles.pop().remove()
        return given, {**named, **more}

    handles.append(model.register_forward_pre_hook(give, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def behind_prefix(
    ids: torch.Tensor, mask: torch.Tensor, virtual: int, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask with a column for each of the prefix's keys in front."""
    dummy = ids.new_full((len(ids), virtual), pad_id)
    return torch.cat((dummy, ids), 1), torch.cat((torch.ones_like(dummy), mask), 1)


def with_virtual_words(
    words: torch.Tensor, mask: torch.Tensor, virtual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, P + T, hidden), the virtual ones between a row's padding and its prompt; and the mask."""
    pads = (mask == 0).sum(dim=1).tolist()
    rows = [torch.cat((w[:n], virtual.to(w.dtype), w[n:])) for w, n in zip(words, pads, strict=True)]
    wider = torch.cat((mask, mask.new_ones(len(mask), len(virtual))), 1).sort(dim=1).values
    return torch.stack(rows), wider


def generation_config(sampling: Sampling, template: ChatTemplate) -> GenerationConfig:
    """`Sampling` in transformers' words. Values that have no effect are left out: it warns about them."""
    options: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "do_sample": sampling.do_sample,
        "num_beams": sampling.num_beams,
        "repetition_penalty": sampling.repetition_penalty,
        "eos_token_id": list(template.stop_ids),
        "pad_token_id": template.pad_id,
        "use_cache": True,
    }
    if sampling.num_beams > 1:
        options["length_penalty"] = sampling.length_penalty
    if sampling.do_sample:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(**options)
