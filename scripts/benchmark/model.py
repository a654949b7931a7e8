"""Random weights and a random adapter, written tensor by tensor: no model is ever held whole."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import GlmForCausalLM, PreTrainedTokenizerFast

from finetune.model.tiny import random_glm
from scripts.benchmark.shapes import Shape

_SHARD_BYTES = 4_000_000_000
_ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
VIRTUAL_TOKENS = 128
"""Of a prefix. peft does not train a loaded one further, so each tool draws its own."""
METHODS = ("lora", "lora-qkv", "p-tuning", "full")


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, shape: Shape, dtype: torch.dtype) -> Path:
    """A random `GlmForCausalLM` of that shape, in shards; in every dtype the same values, those of bfloat16."""
    model = skeleton(tokenizer, shape)
    model.config.dtype = dtype
    model.config.architectures = ["GlmForCausalLM"]
    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(folder)
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(model, dtype)):
        name = f"model-{number:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def skeleton(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> GlmForCausalLM:
    """The model without its weights."""
    with torch.device("meta"):
        return random_glm(tokenizer, 0, shape.config())


def _shards(model: GlmForCausalLM, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    held = 0
    for number, (name, like) in enumerate(model.state_dict().items()):
        shard[name] = _values(name, like.shape, number).to(dtype)
        held += shard[name].nbytes
        if held >= _SHARD_BYTES:
            yield shard
            shard, held = {}, 0
    if shard:
        yield shard


def _values(name: str, size: torch.Size, seed: int) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=torch.bfloat16)
    drawn = torch.Generator().manual_seed(seed)
    return torch.empty(size, dtype=torch.bfloat16).normal_(0, 0.02, generator=drawn)


def write_adapter(folder: Path, base: Path, model: GlmForCausalLM, method: str) -> Path | None:
    """An adapter without a zero, so that every gradient is alive; None for a prefix or all weights."""
    if method in ("full", "p-tuning"):
        return None
    config, shapes = _lora(model, method)
    config.base_model_name_or_path = str(base)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    drawn = torch.Generator().manual_seed(0)
    weights = {name: torch.empty(size).normal_(0, 0.02, generator=drawn) for name, size in shapes.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _lora(model: GlmForCausalLM, method: str) -> tuple[PeftConfig, dict[str, torch.Size]]:
    targets = _ALL_LINEAR if method == "lora" else _ALL_LINEAR[:3]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        adapted = get_peft_model(model, config)
    weights = get_peft_model_state_dict(adapted, state_dict=adapted.state_dict())
    return config, {name: tensor.shape for name, tensor in sorted(weights.items())}
