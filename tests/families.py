"""Tiny models of transformers' families, made from code with random weights."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}


def tiny(family: str, **changes: Any) -> PreTrainedModel:
    """The same weights each time, float32, on plain attention; `changes`: fields of its configuration."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**(SHAPE | changes))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.float().eval()
