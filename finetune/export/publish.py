"""What lies in a folder that holds a whole model."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel

from finetune import log
from finetune.chat.template import ChatTemplate

_SHARD = "5GB"


def write_model(model: PreTrainedModel, template: ChatTemplate, folder: Path) -> None:
    """Weights as safetensors, configuration, tokenizer, template, and the stop tokens an engine must know."""
    model.generation_config = _generation_config(model.generation_config, template)
    model.save_pretrained(folder, max_shard_size=_SHARD)
    template.save(folder)


def _generation_config(base: GenerationConfig | None, template: ChatTemplate) -> GenerationConfig:
    """The base's defaults, with our stop and padding tokens."""
    ours = {"eos_token_id": list(template.stop_ids), "pad_token_id": template.pad_id}
    fields = base.to_diff_dict() if base is not None else {}
    try:
        config = GenerationConfig(**(fields | ours))
        config.validate(strict=True)
    except ValueError as error:
        log.warning(f"the base's generation_config.json contradicts itself and is left out: {_first(error)}")
        return GenerationConfig(**ours)
    return config


def _first(error: ValueError) -> str:
    return str(error).strip().splitlines()[0]
