"""A tuned model to a folder that plain transformers or peft loads."""

import json
import warnings
from pathlib import Path

import torch
from peft import PeftModel

from finetune.model.tuning import LISTS_OF_MODULES, Tuned


def save_tuned(tuned: Tuned, folder: Path) -> None:
    """Write the adapter, or the whole model in its base's dtype. Tokenizer and template are not included."""
    if isinstance(tuned.model, PeftModel):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # embeddings and biases are saved as meant
            tuned.model.save_pretrained(str(folder))
        _sort_names(folder / "adapter_config.json")
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card
        return
    weights = {name: _narrow(tensor, tuned.base_dtype) for name, tensor in tuned.model.state_dict().items()}
    tuned.model.save_pretrained(folder, state_dict=weights)
    _state_dtype(folder / "config.json", tuned.base_dtype)


def _sort_names(config: Path) -> None:
    """peft keeps names of modules in sets, whose order is another in every process."""
    content = json.loads(config.read_text(encoding="utf-8"))
    names = {key: sorted(content[key]) for key in LISTS_OF_MODULES if isinstance(content.get(key), list)}
    config.write_text(json.dumps(content | names, indent=2, sort_keys=True), encoding="utf-8")


def _narrow(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _state_dtype(config: Path, dtype: torch.dtype) -> None:
    """transformers writes the dtype of the weights in memory, which is wider than that of the file."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content["dtype"] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
