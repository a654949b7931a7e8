"""In what a model that only answers is computed: as `estimate.precision` says, for the memory there is."""

from pathlib import Path

import torch

from finetune import log
from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.estimate.machine import free_bytes
from finetune.estimate.precision import SPELT, Precision, precision_of
from finetune.estimate.shape import read_shape
from finetune.model.load import read_model_config, stored_dtype
from finetune.model.products import known_processor

_SHARE = 0.8
"""Of the free memory that weights may fill; keys and values need some of the rest."""


def spelt(dtype: torch.dtype) -> str:
    """A dtype as safetensors spells it."""
    name = str(dtype).removeprefix("torch.")
    return SPELT.get(name, name)


def precision_to_answer(model: str | Path, config: ModelConfig, device: torch.device) -> Precision | None:
    """The precision for `model` on `device`, said in a line where it is not that of its files; None: theirs."""
    if device.type != "cpu":
        return None
    stored, needed = _stored(model, config)
    precision = precision_of(stored, "auto", known_processor().slowdown)
    if config.quantization is None and needed > _SHARE * free_bytes():
        precision = precision.in_memory(by_layer=True)
    if line := precision.line(advice=False):
        log.info(line)
    return precision


def _stored(model: str | Path, config: ModelConfig) -> tuple[str, int]:
    """The dtype of a model's weights, and the bytes they take in float32; 0 where the files are not at hand."""
    try:
        shape = read_shape(model)
    except ModelError:
        return spelt(stored_dtype(read_model_config(model, config))), 0
    return shape.dtype, 4 * shape.parameters
