"""A checkpoint folder or Hub id to a model: native classes, safetensors, and every weight accounted for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from finetune import log
from finetune.chat.sight import refuse_glm_4v_9b
from finetune.config.schema import ModelConfig
from finetune.errors import MissingLibraryError, ModelError, UntrustedContentError, is_out_of_memory, some_of
from finetune.estimate.precision import Precision
from finetune.estimate.shape import check_sizes
from finetune.folder import is_hub_id
from finetune.model.attention import stock_attention
from finetune.model.by_layer import keep_narrow
from finetune.model.finite import refuse_nonfinite
from finetune.model.foreign import (
    choose_own_kernels,
    refuse_foreign_weights,
    refuse_unknown_quantization,
)
from finetune.model.vision import SEEING
from finetune.plain_json import check_json_files, read_json

transformers_logging.disable_progress_bar()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOWER = "visual"
"""The module of a vision tower and its projector, in all of them."""

_REMOTE_CODE_ADVICE = (
    "its architecture is not part of transformers, so its own Python code would run on this machine. "
    "Use a converted checkpoint of a native class (for glm-4-9b-chat: glm-4-9b-chat-hf), "
    "or, if you trust the code, set model_config.trust_remote_code: true (or say --trust-remote-code where "
    "there is no YAML)"
)


def load_base(
    model: str | Path,
    config: ModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    precision: Precision | None = None,
) -> PreTrainedModel:
    """The base model on `device`, in `dtype` (None: as stored), in evaluation mode, on stock attention.

    precision: where it widens the weights, it is what counts, and not `dtype`.
    Raises ModelError for a folder that is not a causal language model or lacks weights, and
    UntrustedContentError where loading would run the checkpoint's code or unpickle its weights.
    """
    if Path(model).is_dir():
        check_json_files(Path(model))
        model = Path(model).resolve()  # an adapter names its base by this path, from wherever it is used
    shape = read_model_config(model, config)
    widened = precision is not None and precision.widened
    by_layer = precision is not None and precision.by_layer
    if widened:
        dtype = None if by_layer else torch.float32
    arguments: dict[str, Any] = {
        "config": shape,
        "dtype": dtype or "auto",
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # listed then like missing ones, and refused below in our words
    }
    if config.quantization is not None:
        arguments["quantization_config"] = quantization(config.quantization, dtype)
    if config.quantization is not None or device.type != "cpu":
        arguments["device_map"] = {"": device}  # tensor by tensor: never the whole model in CPU memory
    loaded, info = _from_pretrained(model, arguments)
    _refuse_invented_weights(model, info)
    _tell_unused_weights(model, info)
    refuse_nonfinite(model, loaded)
    _stay_differentiable(loaded)
    if by_layer:
        keep_narrow(loaded)
    loaded.set_attn_implementation(stock_attention(loaded))
    return loaded.eval()


def read_model_config(model: str | Path, config: ModelConfig) -> PreTrainedConfig:
    """The checkpoint's `config.json`, refused unless it is a text model of a class we may load."""
    where = Path(model)
    if where.is_dir() and not (where / "config.json").is_file():
        raise ModelError(
            f"{where}: no config.json; MODEL is a folder with a transformers checkpoint, or a Hub id"
        )
    if where.is_file() or not (where.exists() or is_hub_id(str(model))):
        what = "a file, not a folder" if where.is_file() else "no such folder"
        raise ModelError(f"{model}: {what}; MODEL is a folder with a transformers checkpoint, or a Hub id")
    raw = _raw_config(model)
    check_sizes(f"{model}: config.json", raw)
    refuse_glm_4v_9b(model, raw)
    refuse_foreign_weights(model, raw)
    refuse_unknown_quantization(model, raw)
    if "auto_map" in raw and raw.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if not config.trust_remote_code:
            raise UntrustedContentError(f"{model}: {_REMOTE_CODE_ADVICE}")
    elif raw.get("model_type") not in (*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *SEEING):
        kinds = f"no causal language model of text, nor a vision model known here ({', '.join(SEEING)})"
        raise ModelError(f"{model}: model_type {raw.get('model_type')!r} is {kinds}")
    try:
        shape = AutoConfig.from_pretrained(model, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"{model}: config.json cannot be used: {_first_line(error)}") from error
    choose_own_kernels(shape)
    return shape


def stored_dtype(shape: PreTrainedConfig) -> torch.dtype:
    """Of the checkpoint's weights, as its config.json tells it."""
    told = shape.dtype or getattr(shape.get_text_config(), "dtype", None)
    if isinstance(told, torch.dtype):
        return told
    return DTYPES.get(str(told), torch.float32)


def auto_class(shape: PreTrainedConfig) -> Any:
    """What of transformers makes a model of this shape: with its eyes, where it has some."""
    return AutoModelForImageTextToText if shape.model_type in SEEING else AutoModelForCausalLM


def quantization(kind: str, compute_dtype: torch.dtype | None) -> Any:
    """transformers' quantization settings for `nf4` or `int8`: of the language model, not of its eyes."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise MissingLibraryError(f"quantization: {kind}", "bitsandbytes", "quantization")
    kept = ["lm_head", _TOWER]
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype or torch.bfloat16,
        llm_int8_skip_modules=kept,
    )


def _stay_differentiable(model: PreTrainedModel) -> None:
    """Keep 4-bit weights as they were quantized.

    On CPUs with AVX512-BF16, bitsandbytes packs them for inference at the first forward in eval mode, and no
    gradient ever passes through them again: adapters below would learn nothing.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (no attribute that torch knows)


def _raw_config(model: str | Path) -> dict[str, Any]:
    try:
        if Path(model).is_dir():
            raw = read_json(Path(model) / "config.json")
        else:
            raw, _ = PreTrainedConfig.get_config_dict(model)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: cannot read its config.json: {_first_line(error)}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{model}: its config.json is not a JSON object")
    return raw


def _from_pretrained(model: str | Path, arguments: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        with _without_load_report():
            loaded: Any = auto_class(arguments["config"]).from_pretrained(model, **arguments)
        return loaded
    except OSError as error:
        if Path(model).is_dir() and any(Path(model).glob("*.bin")):
            raise UntrustedContentError(
                f"{model}: its weights are pickled (.bin), which can run code when loaded; "
                "convert them to safetensors"
            ) from error
        raise ModelError(f"{model}: {_first_line(error)}") from error
    except SafetensorError as error:
        raise ModelError(f"{model}: a weight file is damaged: {error}") from error
    except (ValueError, RuntimeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{model}: {_first_line(error)}") from error


@contextmanager
def _without_load_report() -> Iterator[None]:
    """transformers prints a table of what we say in a line."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _refuse_invented_weights(model: str | Path, info: dict[str, Any]) -> None:
    """transformers fills what a file lacks with random numbers; we never train on those."""
    if missing := info.get("missing_keys"):
        raise ModelError(f"{model}: missing weights: {some_of(sorted(missing))}; the checkpoint is incomplete")
    if mismatched := info.get("mismatched_keys"):
        names = [f"{name} {list(stored)} instead of {list(wanted)}" for name, stored, wanted in mismatched]
        raise ModelError(f"{model}: weights of another shape than config.json says: {some_of(sorted(names))}")


def _tell_unused_weights(model: str | Path, info: dict[str, Any]) -> None:
    if unused := info.get("unexpected_keys"):
        names = some_of(sorted(unused))
        log.warning(f"{model}: has weights that are no part of the model, and are left out: {names}")


def _first_line(error: BaseException) -> str:
    """The first line of a message, or two where the first only announces the second."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
