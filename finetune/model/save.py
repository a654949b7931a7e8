"""A tuned model to a folder that plain transformers or peft loads."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from finetune.model.tuned import Tuned
from finetune.model.tuning import LISTS_OF_MODULES
from finetune.plain_json import read_json

SHARD_BYTES = 5_000_000_000
"""Of one weight file."""


def save_tuned(tuned: Tuned, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapter, or the whole model in its base's dtype. Tokenizer and template are not included.

    `weights`: an adapter's, by parameter name, where the model itself holds only shares of them.
    """
    if isinstance(tuned.model, PeftModel):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # embeddings and biases are saved as meant
            tuned.model.save_pretrained(str(folder), state_dict=weights)
        _sort_names(folder / "adapter_config.json")
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card
        return
    narrow = {name: _narrow(tensor, tuned.base_dtype) for name, tensor in tuned.model.state_dict().items()}
    tuned.model.save_pretrained(folder, state_dict=narrow)
    _state_dtype(folder / "config.json", tuned.base_dtype)


def state_stops(folder: Path, stop_ids: Sequence[int], pad_id: int) -> None:
    """Let a whole model's generation_config.json hold the tokens that end a turn, where the base's lacks some.

    A base model has no turns: its own would never stop behind one.
    """
    file = folder / "generation_config.json"
    content = read_json(file) if file.is_file() else {}
    named = content.get("eos_token_id")
    ends = named if isinstance(named, list) else [named] if named is not None else []
    if set(stop_ids) <= set(ends):
        return
    content |= {"eos_token_id": list(stop_ids), "pad_token_id": pad_id}
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_prompt(tuned: Tuned, folder: Path, embeddings: Tensor) -> None:
    """Write an adapter of virtual tokens whose encoder this process holds a share of; (tokens, width) float."""
    assert isinstance(tuned.model, PeftModel)
    save_file(
        {"prompt_embeddings": embeddings.contiguous()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = tuned.model.active_peft_config
    trains, config.inference_mode = config.inference_mode, True
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode = trains
    _sort_names(folder / "adapter_config.json")


def save_streamed(
    tuned: Tuned, folder: Path, sizes: Mapping[str, int], tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a whole model tensor by tensor, so that no more than one file of it lies in memory.

    sizes: the number of elements of each tensor, in the order in which `tensors` yields them.
    """
    files = dict(_files(sizes, tuned.base_dtype.itemsize))
    count = max(files.values())
    for number, group in groupby(tensors, key=lambda pair: files[pair[0]]):
        shard = {name: _narrow(tensor, tuned.base_dtype).contiguous() for name, tensor in group}
        save_file(shard, folder / _file_name(number, count), metadata={"format": "pt"})
    if count > 1:
        names = {name: _file_name(number, count) for name, number in sorted(files.items())}
        size = sum(sizes.values()) * tuned.base_dtype.itemsize
        index = {"metadata": {"total_size": size}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    tuned.base.config.save_pretrained(folder)
    if tuned.base.can_generate():
        tuned.base.generation_config.save_pretrained(folder)
    _state_dtype(folder / "config.json", tuned.base_dtype)


def _files(sizes: Mapping[str, int], itemsize: int) -> Iterator[tuple[str, int]]:
    """The number of the file, from 1, in which each tensor stands."""
    number, filled = 1, 0
    for name, size in sizes.items():
        if filled and filled + size * itemsize > SHARD_BYTES:
            number, filled = number + 1, 0
        filled += size * itemsize
        yield name, number


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _sort_names(config: Path) -> None:
    """peft keeps names of modules in sets, whose order is another in every process."""
    content = read_json(config)
    names = {key: sorted(content[key]) for key in LISTS_OF_MODULES if isinstance(content.get(key), list)}
    config.write_text(json.dumps(content | names, indent=2, sort_keys=True), encoding="utf-8")


def _narrow(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _state_dtype(config: Path, dtype: torch.dtype) -> None:
    """transformers writes the dtype of the weights in memory, which is wider than that of the file."""
    content = read_json(config)
    content["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
