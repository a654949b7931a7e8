"""Learning rates of their own: LoRA+'s B, and the embeddings with the output layer.

    embedding_learning_rate              of embeddings and output layer, adapters on them too
    learning_rate x loraplus_lr_ratio    of lora_B and lora_embedding_B elsewhere
    learning_rate                        of all others

As in peft's create_loraplus_optimizer, whose loraplus_lr_embedding is embedding_learning_rate here.
"""

import re
from collections.abc import Mapping
from typing import Any

from finetune.config.sections import RunConfig
from finetune.errors import ConfigError
from finetune.model.tuned import Tuned

_B = re.compile(r"(^|\.)(lora_B|lora_embedding_B)(\.|$)")

Rates = Mapping[str, float]
"""Name of a parameter -> its learning rate, of those that have another than training_args.learning_rate."""


def own_rates(run: RunConfig, tuned: Tuned, learning_rate: float) -> Rates:
    """The learning rates that `run` asks for. Raises ConfigError for a key that no trained weight goes by."""
    rates: dict[str, float] = {}
    if run.loraplus_lr_ratio is not None:
        rates |= _all_at(learning_rate * run.loraplus_lr_ratio, _names_of_b(tuned), "loraplus_lr_ratio")
    if run.embedding_learning_rate is not None:
        rates |= _all_at(run.embedding_learning_rate, _names_of_embeddings(tuned), "embedding_learning_rate")
    return rates


def _all_at(rate: float, names: list[str], key: str) -> dict[str, float]:
    if not names:
        needs = {
            "loraplus_lr_ratio": "no matrix B of LoRA is trained; remove it",
            "embedding_learning_rate": "no embedding and no output layer is trained; remove it, or train them: "
            "peft_config.modules_to_save: [embed_tokens, lm_head], or all weights",
        }
        raise ConfigError(f"run.{key}: {needs[key]}")
    return dict.fromkeys(names, rate)


def _names_of_b(tuned: Tuned) -> list[str]:
    return [name for name, _ in tuned.trainable() if _B.search(name)]


def _names_of_embeddings(tuned: Tuned) -> list[str]:
    """By identity: families call these modules by many names, and peft wraps them."""
    modules: list[Any] = [tuned.base.get_input_embeddings(), tuned.base.get_output_embeddings()]
    found = {id(parameter) for module in modules if module is not None for parameter in module.parameters()}
    return [name for name, parameter in tuned.trainable() if id(parameter) in found]
