"""The parts of a model that are taken apart one after the other."""

from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel
from torch import nn

from finetune.errors import ConfigError
from finetune.model.tuned import Tuned


def layers_of(tuned: Tuned, classes: Sequence[str] = ()) -> Iterator[nn.Module]:
    """The model's layers, then the base around them, then an encoder of virtual tokens, if there is one.

    `classes`: names of the layers' classes; none: those that transformers says must stay together.
    Raises ConfigError where the model has none of them.
    """
    wanted = set(classes) or set(tuned.base._no_split_modules or ())
    layers = [module for module in tuned.base.modules() if type(module).__name__ in wanted]
    if not layers:
        raise ConfigError(
            "training_args.fsdp_config.transformer_layer_cls_to_wrap: "
            f"{type(tuned.base).__name__} has no layers of class {', '.join(sorted(wanted)) or '?'}"
        )
    yield from layers
    yield tuned.base
    if isinstance(tuned.model, PeftModel) and tuned.kind in ("prefix", "prompt"):
        yield from tuned.model.prompt_encoder.children()


def set_dtypes(module: nn.Module, *, trainable: torch.dtype, frozen: torch.dtype) -> None:
    """Convert what is not converted yet; quantized weights stay as they are."""
    for parameter in module.parameters():
        dtype = trainable if parameter.requires_grad else frozen
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
