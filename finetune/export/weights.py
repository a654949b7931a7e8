"""Adding an adapter into the weights it was trained beside, with one rounding.

peft adds a delta rounded to the base's dtype, and rounds the sum again. Here each adapted layer is widened to
float32, merged by peft, and narrowed: only one layer is wide at a time.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from finetune.errors import ModelError

Dtypes = Mapping[int, torch.dtype]
"""id of a base model's parameter -> the dtype it shall have when merged."""


def merged_dtypes(base: PreTrainedModel, target: torch.dtype) -> Dtypes:
    """`target` for what is stored in the model's dtype; what is stored wider on purpose (routers) stays so."""
    return {id(p): target if p.dtype == base.dtype else p.dtype for p in base.parameters()}


def merge_weights(model: PeftModel, dtypes: Dtypes, target: torch.dtype, adapter: Path) -> PreTrainedModel:
    """Add the adapter into the base: each sum is made in float32 and rounded once. Consumes `model`.

    `dtypes` is what `merged_dtypes` said before the adapter was put on; parameters that came with the adapter
    (read from the folder `adapter`) get `target`. Raises ModelError for an adapter that peft cannot merge,
    or that makes weights that are not finite.
    """
    was_tied = _untie(model)
    try:
        for layer in [m for m in model.modules() if isinstance(m, BaseTunerLayer)]:
            _merge_layer(layer, dtypes, target)
        with warnings.catch_warnings():
            # Said by peft of what is meant so: the layers are merged already, the embeddings untied.
            warnings.simplefilter("ignore")
            merged = model.merge_and_unload()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{adapter}: cannot be merged: {str(error).splitlines()[0]}") from error
    _narrow(merged, dtypes, target)
    if was_tied:
        _tie_where_equal(merged)
    return merged.requires_grad_(False)


def _merge_layer(layer: BaseTunerLayer, dtypes: Dtypes, target: torch.dtype) -> None:
    base = layer.get_base_layer()
    base.float()
    layer.merge(safe_merge=True)
    _narrow(base, dtypes, target)


def _narrow(module: nn.Module, dtypes: Dtypes, target: torch.dtype) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtypes.get(id(parameter), target))


def _untie(model: nn.Module) -> bool:
    """Give every module its own weights; True if any were shared.

    An adapter on the input embeddings says nothing of the output head: merged into shared weights it would
    change both.
    """
    seen: set[int] = set()
    tied = False
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
                tied = True
            seen.add(id(parameter))
    return tied


def _tie_where_equal(model: PreTrainedModel) -> None:
    """Share input and output embeddings again unless the adapter made them differ."""
    inputs = model.get_input_embeddings().get_parameter("weight")
    outputs = model.get_output_embeddings().get_parameter("weight")
    equal = torch.equal(inputs, outputs)
    for config in (model.config, model.config.get_text_config()):  # two, where the model sees
        config.tie_word_embeddings = equal
    if equal:
        model.tie_weights()
