"""Tiny vision checkpoints of transformers' families, from code with random weights, and pictures for them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

GLM = [
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    *("<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|video|>"),
]
QWEN = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"),
]

_PARTS = (
    "{%- if m.content is string %}{{ m.content }}{% else %}{%- for part in m.content %}"
    "{{- IMAGE if part.type == 'image' else part.text }}{%- endfor %}{% endif %}"
)
GLM_TEMPLATE = (
    "[gMASK]<sop>{%- for m in messages %}{{- '<|' + m.role + '|>\n' }}"
    + _PARTS.replace("IMAGE", "'<|begin_of_image|><|image|><|end_of_image|>'")
    + "{%- endfor %}{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    + _PARTS.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'")
    + "{{- '<|im_end|>\n' }}{%- endfor %}"
    + "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_GLM_ROPE = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "mrope_section": [1, 1, 2],
    "partial_rotary_factor": 0.5,
}
_GLM_TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 32,
    "image_size": 112,
    "patch_size": 14,
}
_EXPERTS = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_QWEN_TOWER = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "patch_size": 14}
FAMILIES: Mapping[str, dict[str, Any]] = {
    "glm4v": {"text": {"rope_parameters": _GLM_ROPE}, "tower": _GLM_TOWER},
    "glm46v": {
        "text": {"rope_parameters": _GLM_ROPE, "model_type": "glm4v_text"},
        "tower": {**_GLM_TOWER, "model_type": "glm4v_vision"},
    },
    "glm4v_moe": {"text": {"rope_parameters": _GLM_ROPE, **_EXPERTS}, "tower": _GLM_TOWER},
    "qwen2_vl": {
        "text": {"rope_parameters": _ROPE},
        "tower": {**_QWEN_TOWER, "embed_dim": 16, "hidden_size": _TEXT["hidden_size"], "mlp_ratio": 2},
    },
    "qwen2_5_vl": {
        "text": {"rope_parameters": _ROPE},
        "tower": {**_QWEN_TOWER, "fullatt_block_indexes": [1], "window_size": 56},
    },
    "qwen3_vl": {
        "text": {"rope_parameters": _ROPE},
        "tower": {
            **_QWEN_TOWER,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    },
    "qwen3_vl_moe": {
        "text": {
            "rope_parameters": _ROPE,
            "moe_intermediate_size": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        "tower": {
            **_QWEN_TOWER,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    },
}


def tokenizer_for(family: str) -> PreTrainedTokenizerFast:
    """Bytes, and the family's control tokens."""
    special = GLM if family.startswith("glm") else QWEN
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    bpe.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=special[0] if family.startswith("glm") else special[2],
        pad_token=special[0],
        additional_special_tokens=special[1:],
        clean_up_tokenization_spaces=False,
        chat_template=GLM_TEMPLATE if family.startswith("glm") else QWEN_TEMPLATE,
    )


def make_seeing(
    folder: Path, family: str = "glm4v", *, dtype: torch.dtype = torch.float32, **text: Any
) -> Path:
    """Write a whole checkpoint of a family, the same bytes each time; `text`: fields of the language model."""
    tokenizer = tokenizer_for(family)
    named = dict(zip(("image", "video"), _image_tokens(family), strict=True))
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    shape = FAMILIES[family]
    vocabulary = {"vocab_size": -(-len(tokenizer) // 32) * 32, "pad_token_id": 0}
    fields = {**_TEXT, **vocabulary, **shape["text"], **text}
    tower = {**shape["tower"], "out_hidden_size": fields["hidden_size"]}
    config = CONFIG_MAPPING[family](text_config=fields, vision_config=tower, **ids)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).to(dtype)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_processor(family)), encoding="utf-8")
    return folder


def _image_tokens(family: str) -> tuple[str, str]:
    return ("<|image|>", "<|video|>") if family.startswith("glm") else ("<|image_pad|>", "<|video_pad|>")


def _processor(family: str) -> dict[str, Any]:
    kinds = {
        "glm4v": "Glm4vImageProcessor",
        "glm46v": "Glm46VImageProcessor",
        "glm4v_moe": "Glm4vImageProcessor",
    }
    return {
        "image_processor_type": kinds.get(family, "Qwen2VLImageProcessor"),
        "size": {"shortest_edge": 28 * 28 * 2, "longest_edge": 28 * 28 * 16},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }


def draw(path: Path, width: int = 56, height: int = 28, seed: int = 0) -> Path:
    """A picture of noise, the same each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path
