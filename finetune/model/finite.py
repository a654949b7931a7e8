"""Weights that are not finite, told by name before anything is computed with them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from finetune.errors import ModelError, some_of

NamedTensors = Iterable[tuple[str, Tensor]]


def refuse_nonfinite(model: str | Path, loaded: PreTrainedModel) -> None:
    """Raises ModelError where a weight of a base is NaN or infinite; costs about one pass over the memory.

    What was quantized while it was loaded shows no NaN any more: there the files are read once more.
    """
    quantized = "quantization_config" in loaded.config.to_dict()
    tensors = _stored(Path(model)) if quantized and Path(model).is_dir() else loaded.named_parameters()
    found = ((name, _count(tensor), tensor.numel()) for name, tensor in tensors if _is_broken(tensor))
    broken = [f"{name} ({count:,} of {size:,})" for name, count, size in found]
    if broken:
        raise ModelError(
            f"{model}: weights that are not finite (NaN or infinite): {some_of(broken)}; the checkpoint is "
            "damaged, or its training diverged: nothing can be computed or learnt with it; copy it again"
        )


def _is_broken(tensor: Tensor) -> bool:
    """The smallest and the largest number show it, in one pass without a copy."""
    if not tensor.is_floating_point() or tensor.element_size() < 2 or not tensor.numel():
        return False
    return not all(bool(bound.isfinite()) for bound in torch.aminmax(tensor.detach()))


def _count(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.detach().isfinite().sum())


def _stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (no mapping)
                yield name, opened.get_tensor(name)
