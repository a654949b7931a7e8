"""Adapters that changed something, without training one."""

from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model
from transformers import PreTrainedModel


def save_moved(model: PreTrainedModel, config: PeftConfig, folder: Path, size: float) -> Path:
    """An adapter on `model` whose trained weights are moved away from their neutral start."""
    torch.manual_seed(1)
    tuned = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += size * torch.randn(parameter.shape)
    tuned.save_pretrained(folder)
    return folder
