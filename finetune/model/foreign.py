"""What a stranger's checkpoint or adapter may not decide: which code computes with it.

transformers and peft take names of kernels, modules and other checkpoints from config.json and
adapter_config.json, and import or fetch what is named. Checked here before they see it.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from transformers import PreTrainedConfig

from finetune.errors import ModelError, UntrustedContentError
from finetune.weights import INDEX_FILE, check_named_weights, check_weight_files, indexed_files

_LIBRARIES: Mapping[str, str] = {
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "torchao": "torchao",
    "hqq": "hqq",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
}
"""quant_method -> the library that computes with it. Others fetch their kernels from the Hub."""

_FOREIGN_OPTIONS: Mapping[str, str] = {
    "megatron_config": "imports a module that the adapter names",
    "adapters": "loads other adapters that it names",
    "prompt_tuning_init_state_dict_path": "loads another file that it names",
}
"""Options of adapter_config.json that let the adapter choose what is imported or read."""


def refuse_foreign_weights(model: str | Path, config: Mapping[str, Any]) -> None:
    """Raises UntrustedContentError where the weights of `model` are to be read from elsewhere, or unpickled.

    config: of its config.json.
    """
    check_named_weights(model, dict(config))
    folder = Path(model)
    if not folder.is_dir():
        _check_hub_index(str(model))
        return
    check_weight_files(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds adapter_config.json beside config.json, and loaders would put that adapter on "
            "the model unasked; move the adapter to a folder of its own, or remove it"
        )


def _check_hub_index(model: str) -> None:
    try:
        index = hf_hub_download(model, INDEX_FILE)
    except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return  # a single file, or not at hand, which loading the model will tell
    indexed_files(Path(index))


def refuse_unknown_quantization(model: str | Path, config: Mapping[str, Any]) -> None:
    """Raises ModelError naming a quantization that needs code which is not installed here."""
    for settings in _quantizations(config):
        method = settings.get("quant_method")
        if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
            method = "bitsandbytes"
        library = _LIBRARIES.get(str(method))
        if library is None or find_spec(library) is None:
            needs = "kernels that we do not have" if library is None else f"{library}, not installed here"
            raise ModelError(
                f"{model}: its weights are stored quantized by {method!r}, which needs {needs}; use the "
                "full-precision checkpoint (model_config.quantization: nf4 makes it small)"
            )


def _quantizations(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for key, value in config.items():
        if key == "quantization_config" and isinstance(value, dict) and value:
            yield value
        elif key.endswith("_config") and isinstance(value, dict):
            yield from _quantizations(value)


def choose_own_kernels(shape: PreTrainedConfig) -> None:
    """Forget which functions for attention and experts a config.json names, in its sub-configs too.

    A name like owner/kernel is fetched from the Hub and run; ours is set on the model instead.
    """
    for config in (shape, *_inner(shape)):
        config._attn_implementation = None
        config._experts_implementation = None


def _inner(shape: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    for value in list(vars(shape).values()):
        if isinstance(value, PreTrainedConfig):
            yield value
            yield from _inner(value)


def refuse_foreign_adapter(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises UntrustedContentError for an adapter_config.json that chooses what is imported or read."""
    where = folder / "adapter_config.json"
    for option, what in _FOREIGN_OPTIONS.items():
        if config.get(option):
            raise UntrustedContentError(f"{where}: {option} {what}, and is not honoured; remove it")
    kwargs = config.get("tokenizer_kwargs")
    if isinstance(kwargs, dict) and kwargs.get("trust_remote_code"):
        raise UntrustedContentError(
            f"{where}: tokenizer_kwargs: trust_remote_code: an adapter cannot permit running code; remove it"
        )
    check_weight_files(folder)
