"""A small GLM-4.1V made from code and a seed: model, tokenizer, template, image processor, with no download.

It has GLM-4.1V's parts (a tower with two-dimensional rotary positions, a merger of 2 x 2 patches, a language
model whose rotary positions are in time, rows and columns), its control tokens and its chat format. It has no
words for thoughts: the real one writes `<think>…</think><answer>…</answer>`, and this one its answer alone.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.glm4v.configuration_glm4v import Glm4vConfig
from transformers.models.glm4v.modeling_glm4v import Glm4vForConditionalGeneration

from finetune.chat.sight import PROCESSOR_FILES
from finetune.model.tiny import SPECIAL_TOKENS, STOP_TOKENS, bpe_tokenizer

VISION_TOKENS = (*SPECIAL_TOKENS, "<|image|>", "<|video|>")
TEMPLATE = Path(__file__).with_name("glm4v.jinja")
_MOST_TOKENS = 64
"""Of one picture; a larger one is made smaller."""


def make_tiny_vision(
    folder: Path,
    corpus: Iterable[str] = (),
    *,
    seed: int = 0,
    vocab_size: int = 1024,
    tower: Mapping[str, Any] | None = None,
    **shape: Any,
) -> Path:
    """Write a small random `Glm4vForConditionalGeneration` with all that belongs to it to `folder`; returns it.

    `corpus` and `vocab_size` as for `make_tiny`; `tower` overrides fields of `Glm4vVisionConfig` (`depth=…`),
    `shape` those of `Glm4vTextConfig` (`hidden_size=…`). A picture takes one token for every 28 x 28 pixels,
    unless `tower` says otherwise. The same arguments give the same bytes.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    tokenizer = bpe_tokenizer(corpus, vocab_size, VISION_TOKENS, template)
    model = random_glm4v(tokenizer, seed, shape, tower or {})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = json.dumps(_processor_fields(model.config.to_dict()["vision_config"]), indent=2)
    (folder / PROCESSOR_FILES[0]).write_text(f"{processor}\n", encoding="utf-8")
    return folder


def random_glm4v(
    tokenizer: PreTrainedTokenizerFast, seed: int, shape: Mapping[str, Any], tower: Mapping[str, Any]
) -> Glm4vForConditionalGeneration:
    """A randomly initialised model whose vocabulary is the tokenizer's, padded to a multiple of 64."""
    text = {**_text_fields(tokenizer), **shape}
    text.setdefault("rope_parameters", _rope(text["hidden_size"] // text["num_attention_heads"]))
    eyes = {**_tower_fields(), "out_hidden_size": text["hidden_size"], **tower}
    fields = {"text_config": text, "vision_config": eyes, "dtype": torch.float32, **_token_ids(tokenizer)}
    config = Glm4vConfig(**fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Glm4vForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=text["eos_token_id"], pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


def _text_fields(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.05,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids(list(STOP_TOKENS)),
        "bos_token_id": None,
    }


def _rope(head: int) -> dict[str, Any]:
    """Half of a head of so many numbers turns, in pairs: a quarter in time, the rest in rows and columns."""
    pairs = head // 4
    place = 3 * pairs // 8
    return {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [pairs - 2 * place, place, place],
    }


def _tower_fields() -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.05,
        "image_size": 56,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }


def _processor_fields(tower: Mapping[str, Any]) -> dict[str, Any]:
    """How pictures are cut for this tower; `size` bounds the pixels of all frames together."""
    side, merge, frames = tower["patch_size"], tower["spatial_merge_size"], tower["temporal_patch_size"]
    least = frames * (side * merge) ** 2
    return {
        "image_processor_type": "Glm4vImageProcessor",
        "patch_size": side,
        "temporal_patch_size": frames,
        "merge_size": merge,
        "size": {"shortest_edge": least, "longest_edge": least * _MOST_TOKENS},
    }


def _token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = {
        f"{kind}{place}_token_id": f"<|{words}{kind}|>"
        for kind in ("image", "video")
        for place, words in (("", ""), ("_start", "begin_of_"), ("_end", "end_of_"))
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
