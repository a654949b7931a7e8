"""A line of YAML for every key, to be shown beside its explanation."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from finetune.config.keys import Key, in_yaml
from finetune.shipped import find_shipped

_SHIPPED = ("lora.yaml", "ptuning_v2.yaml", "qlora.yaml", "sft.yaml", "tiny/lora.yaml")

_WRITTEN: Mapping[str, str] = {
    "data_config.columns": "{question: user, answer: assistant}",
    "data_config.special_tokens_in_text": '["<|map|>"]',
    "data_config.train_file.file": "more.jsonl",
    "data_config.train_file.weight": "0.5",
    "evaluation.retain_file": "retain.txt",
    "model_config.adapter": "output/checkpoint-500",
    "model_config.chat_template": "template.jinja",
    "model_config.chat_template_kwargs": "{enable_thinking: false}",
    "model_config.freeze": "[model.embed_tokens]",
    "peft_config.alpha_pattern": "{down_proj: 32}",
    "peft_config.exclude_modules": "[lm_head]",
    "peft_config.feedforward_modules": "[down_proj]",
    "peft_config.init_lora_weights": "gaussian",
    "peft_config.layers_pattern": "layers",
    "peft_config.layers_to_transform": "[0, 1]",
    "peft_config.modules_to_save": "[lm_head]",
    "peft_config.prefix_init_text": "Answer briefly.",
    "peft_config.prompt_tuning_init_text": "Answer briefly.",
    "peft_config.rank_pattern": "{down_proj: 16}",
    "peft_config.target_parameters": "[mlp.experts.down_proj]",
    "peft_config.tokenizer_name_or_path": "path/to/model",
    "peft_config.trainable_token_indices": "[151336]",
    "run.early_stopping": "{patience: 3}",
    "run.embedding_learning_rate": "1e-5",
    "run.loraplus_lr_ratio": "16",
    "training_args.fsdp": "full_shard auto_wrap",
    "training_args.fsdp_config.transformer_layer_cls_to_wrap": "GlmDecoderLayer",
    "training_args.gradient_checkpointing_kwargs": "{use_reentrant: false}",
    "training_args.lr_scheduler_kwargs": "{num_cycles: 2}",
    "training_args.metric_for_best_model": "rouge-l",
    "training_args.neftune_noise_alpha": "5",
    "training_args.optim_args": "momentum=0.9",
    "training_args.report_to": "tensorboard",
    "training_args.run_name": "first-try",
    "training_args.save_steps": "0.1",
}


def example(key: Key) -> str:
    """What one may write behind `key`: as a shipped YAML has it, else from its schema."""
    written = _WRITTEN.get(key.path) or _shipped().get(key.name)
    return written or in_yaml(_from_shape(key.shape))


def example_lines(key: Key) -> list[str]:
    """`key` with an example value, in the maps it stands in."""
    lines = [f"{key.name}: {example(key)}"]
    if key.kinds and key.name != "peft_type":
        lines.insert(0, f"peft_type: {key.kinds[0]}")
    for part in reversed(key.level.split(".") if key.level else []):
        if part == "train_file":
            lines[0] = f"- {lines[0]}" if key.name == "file" else f"- file: train.jsonl\n  {lines[0]}"
            lines = "\n".join(lines).split("\n")
        lines = [f"{part}:", *(f"  {line}" for line in lines)]
    return lines


@cache
def _shipped() -> Mapping[str, str]:
    """Key -> what the first of the shipped YAMLs that has it says; maps are left out."""
    found: dict[str, str] = {}
    for file in filter(None, map(find_shipped, _SHIPPED)):
        text = file.read_text(encoding="utf-8")
        for name, value in re.findall(r"^ *(\w+): ([^#\n]*[^#\s])", text, re.MULTILINE):
            found.setdefault(name, value)
    return found


def _from_shape(shape: Mapping[str, Any]) -> object:
    """A value that the schema allows, another than the default where there is one."""
    first = next((one for one in shape.get("anyOf", ()) if one.get("type") != "null"), shape)
    default = shape.get("default")
    match first:
        case {"const": const}:
            return const
        case {"enum": [*choices]}:
            return next(choice for choice in choices if choice != default)
        case {"type": "boolean"}:
            return default is not True
        case {"type": "integer" | "number"}:
            return default if default is not None else 1
    return "{}" if "properties" in first or first.get("type") in ("object", None) else default
