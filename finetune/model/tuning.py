"""Which weights of a model learn: an adapter from peft, a prefix, or all of them.

Whatever the base's dtype, trainable weights are float32: in bfloat16 a small update rounds to nothing.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from peft import __version__ as peft_version
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from finetune import log
from finetune.config.modules import PARTS, is_like, left_alone
from finetune.config.tuning import TUNINGS, Tuning, all_options
from finetune.errors import ConfigError, ModelError, UntrustedContentError, some_of
from finetune.model.by_layer import ByLayerLinear
from finetune.model.foreign import refuse_foreign_adapter
from finetune.model.low_rank import LowRankLinear
from finetune.model.names import also_left_alone, map_names, refuse_out_of_range, refuse_unmatched
from finetune.model.tuned import Kind, Tuned
from finetune.model.vision import sees
from finetune.plain_json import read_json

LISTS_OF_MODULES = ("target_modules", "feedforward_modules", "exclude_modules", "modules_to_save")


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """While this is entered, peft's layers compute what the base's own do.

    Not by peft's `disable_adapter`, which also says that nothing learns meanwhile: whoever shares weights among
    processes takes note of that.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not module.disable_adapters
    ]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def apply_tuning(
    model: PreTrainedModel, tuning: Tuning | None, *, freeze: Sequence[str] | None = None, wide: bool = True
) -> Tuned:
    """Make of a base model what is to be trained: an adapter as `tuning` says, or (None) the whole of it.

    `freeze` are patterns of parameter names that full fine-tuning leaves alone, and parts of a model that sees
    (`vision`, `tower`, `projector`), which get no adapters either; None: all learns, and adapters are for the
    language model. `wide`: what learns is float32; else whoever takes the model apart sees to it. Raises
    ConfigError where a name or pattern matches nothing.
    """
    if tuning is None:
        model.requires_grad_(True)
        _freeze(model, freeze or ())
        return _in_float32(Tuned(model, "full", model.dtype), wide)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            tuned = get_peft_model(model, peft_config(model, tuning, freeze))
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"peft_config: {error}") from error
    described = _in_float32(_describe(tuned, model.dtype), wide)
    _restate_magnitudes(tuned)
    return described


@torch.no_grad()
def _restate_magnitudes(tuned: nn.Module) -> None:
    """Begin DoRA's magnitudes at the norms in float32: peft rounds them to the dtype of a narrow weight."""
    layers: list[Any] = [module for module in tuned.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        base = layer.get_base_layer()
        for name, magnitude in layer.lora_magnitude_vector.items() if isinstance(base, ByLayerLinear) else ():
            delta = layer.scaling[name] * layer.lora_B[name].weight @ layer.lora_A[name].weight
            magnitude.weight.copy_((base.weight.float() + delta).norm(dim=1))


def load_adapter(model: PreTrainedModel, folder: Path, *, trainable: bool = False, wide: bool = True) -> Tuned:
    """Put the adapter in `folder` on its base model; `wide` as for `apply_tuning`.

    Raises ModelError for one that is damaged, has values that are not finite, or was made for another base;
    UntrustedContentError for one that is pickled.
    """
    config = _read_adapter_config(folder)
    _check_adapter_weights(folder)
    targets = config.to_dict().get("target_modules")
    if isinstance(targets, list | set | tuple):
        modules = {name for name, _ in model.named_modules()}
        refuse_unmatched(modules, targets, ModelError, f"{folder}: made for another base model")
    if trainable:
        _refuse_unfinishable(folder, config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ours = _fast(config, model)
            tuned = PeftModel.from_pretrained(model, str(folder), config=ours, is_trainable=trainable)
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise ModelError(f"{folder}: does not fit this base model: {reason}") from error
    return _in_float32(_describe(tuned, model.dtype), wide and trainable)


def read_adapter_settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json as it stands. Raises ModelError."""
    try:
        settings = read_json(folder / "adapter_config.json")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder}: adapter_config.json cannot be used: {error}") from None
    if not isinstance(settings, dict):
        raise ModelError(f"{folder}: adapter_config.json cannot be used: not a JSON object")
    return settings


def _read_adapter_config(folder: Path) -> PeftConfig:
    refuse_foreign_adapter(folder, read_adapter_settings(folder))
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise ModelError(f"{folder}: adapter_config.json cannot be used: {error}") from error


def _refuse_unfinishable(folder: Path, config: PeftConfig) -> None:
    """Adapters that talk as they are, and from which training cannot go on."""
    kind = PeftType(config.peft_type).value
    if kind not in TUNINGS:
        raise ModelError(f"{folder}: {kind} cannot be trained further; {', '.join(TUNINGS)} can")
    if kind == "P_TUNING" or config.to_dict().get("prefix_projection"):
        raise ModelError(
            f"{folder}: cannot be trained further: it was saved without the network that computes it; "
            "go on from a checkpoint of the run itself (RESUME)"
        )


def _check_adapter_weights(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise UntrustedContentError(
                f"{folder}: the adapter is pickled (.bin), which can run code when loaded"
            )
        raise ModelError(f"{folder}: no adapter_model.safetensors")
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise ModelError(f"{file}: damaged: {error}") from error
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise ModelError(f"{file}: {broken[0]} has values that are not finite")


def peft_config(model: PreTrainedModel, tuning: Tuning, freeze: Sequence[str] | None = None) -> PeftConfig:
    """The peft configuration of a `peft_config` section, its names mapped to this architecture."""
    options = all_options(tuning)
    alone = left_alone(freeze, options.get("target_modules")) if sees(model) else None
    for key in LISTS_OF_MODULES:
        if options.get(key):
            targets = key in ("target_modules", "feedforward_modules")
            options[key] = map_names(model, options[key], key, alone if targets else None)
    if alone is not None and tuning.peft_type in ("LORA", "IA3"):
        options["exclude_modules"] = also_left_alone(options.get("exclude_modules"), alone)
    refuse_out_of_range(model, options)
    if sees(model) and tuning.peft_type in ("P_TUNING", "PROMPT_TUNING"):
        raise ConfigError(
            f"peft_config.peft_type: {tuning.peft_type} puts virtual words before the text, and a model that "
            "sees places its pictures by the words before them; use PREFIX_TUNING or LORA"
        )
    match tuning.peft_type:
        case "LORA":
            return _fast(_made(LoraConfig, tuning, options), model)
        case "PREFIX_TUNING":
            return _made(PrefixTuningConfig, tuning, options | _corrected(options, _prefix_shape(model)))
        case "P_TUNING":
            return _made(PromptEncoderConfig, tuning, options | _corrected(options, _prompt_shape(model)))
        case "PROMPT_TUNING":
            options["tokenizer_name_or_path"] = options["tokenizer_name_or_path"] or model.name_or_path
            return _made(PromptTuningConfig, tuning, options | _corrected(options, _prompt_shape(model)))
        case "IA3":
            return _made(IA3Config, tuning, options)


def _made(kind: type[PeftConfig], tuning: Tuning, options: Mapping[str, Any]) -> PeftConfig:
    """Peft's configuration with every option stated, so that no default of the installed version decides.

    An option that this version does not know is left out at its default, which is then what peft does anyway.
    Raises ConfigError for one that asks for something else.
    """
    known = {field.name for field in fields(kind)}
    asked = {key for key, value in type(tuning).model_fields.items() if options.get(key) != value.get_default()}
    if missing := sorted(asked & options.keys() - known):
        raise ConfigError(f"peft_config.{missing[0]}: peft {peft_version} has no such option; update peft")
    return kind(**{key: value for key, value in options.items() if key in known})


def _fast(config: PeftConfig, model: PreTrainedModel) -> PeftConfig:
    """Have peft put our own layer on the plain linear layers that LoRA targets.

    Quantized ones and LoftQ's start are its own business.
    """
    quantized = "quantization_config" in model.config.to_dict()
    if isinstance(config, LoraConfig) and not quantized and not config.loftq_config:
        config._register_custom_module({nn.Linear: LowRankLinear})  # peft's documented way to bring one along
    return config


def _prefix_shape(model: PreTrainedModel) -> dict[str, int]:
    """What a prefix must look like to be this model's keys and values."""
    config = model.config.get_text_config()
    heads = config.num_key_value_heads
    head_dim = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
    return _prompt_shape(model) | {"num_attention_heads": heads, "token_dim": heads * head_dim}


def _prompt_shape(model: PreTrainedModel) -> dict[str, int]:
    """What virtual tokens must look like to be this model's input embeddings."""
    config = model.config.get_text_config()
    return {
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "token_dim": config.hidden_size,
        "num_transformer_submodules": 1,
    }


def _corrected(options: Mapping[str, Any], shape: dict[str, int]) -> dict[str, int]:
    """The model's own shape; says where the YAML disagreed."""
    for name, right in shape.items():
        if options.get(name) not in (None, right):
            log.info(f"peft_config.{name}: {options[name]} does not fit the model; {right} does, and is used")
    return shape


def _freeze(model: PreTrainedModel, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        matched = {name: p for name, p in model.named_parameters() if is_like(name, pattern)}
        if not matched and pattern in PARTS:  # `freezeV: true` stands in every GLM-4 YAML, for text too
            log.info(f"freeze: {type(model).__name__} sees no images: it has no {pattern} to freeze")
        elif not matched:
            raise ConfigError(f"model_config.freeze: {pattern!r} matches no parameter of the model")
        else:
            log.info(f"freeze: {pattern} leaves {len(matched)} weights as they are: {some_of(matched)}")
        for parameter in matched.values():
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"model_config.freeze: {', '.join(patterns)} leaves nothing to learn")


def _describe(model: PeftModel, base_dtype: torch.dtype) -> Tuned:
    config = model.active_peft_config
    if not config.is_prompt_learning:
        return Tuned(model, "adapter", base_dtype)
    kind: Kind = "prefix" if config.peft_type == "PREFIX_TUNING" else "prompt"
    return Tuned(model, kind, base_dtype, config.num_virtual_tokens)


def _in_float32(tuned: Tuned, wide: bool) -> Tuned:
    for _, parameter in tuned.trainable():
        if wide and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    return tuned
