"""DeepSpeed's JSON, as a user has it, and what DeepSpeed is given of it: GLM-4's files work as they are.

Every "auto" is filled, from training_args or the model, with the values transformers gives it. Two things are
finetune's own: its loop decides when a step ends, so DeepSpeed is told that every micro-batch is one; and the
optimizer is torch's.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.arguments import TrainingArgs
from finetune.config.draft import KeyPath, dotted
from finetune.errors import ConfigError
from finetune.plain_json import read_json

AUTO = "auto"
Content = dict[str, Any]

_FILLED: frozenset[KeyPath] = frozenset(
    [
        ("bf16", "enabled"),
        ("bfloat16", "enabled"),
        ("data_types", "grad_accum_dtype"),
        ("data_types", "keep_in_fp32_modules"),  # DeepSpeed's own "auto"
        ("gradient_accumulation_steps",),
        ("gradient_clipping",),
        ("train_batch_size",),
        ("train_micro_batch_size_per_gpu",),
        ("zero_optimization", "reduce_bucket_size"),
        ("zero_optimization", "stage3_gather_16bit_weights_on_model_save"),
        ("zero_optimization", "stage3_param_persistence_threshold"),
        ("zero_optimization", "stage3_prefetch_bucket_size"),
    ]
)
_LEFT_OUT = ("activation_checkpointing", "bfloat16", "fp16", "optimizer", "scheduler", "train_batch_size")
_NEVER = 10**12
"""More steps than any run has."""


@dataclass(frozen=True, slots=True)
class DeepSpeed:
    """What deepspeed.initialize is given.

    offloads: whether optimizer or parameters lie on the CPU or an NVMe disk. notices: a line for the screen for
    each thing that was filled in or left out.
    """

    stage: int
    offloads: bool
    content: Content
    notices: tuple[str, ...]


def read_deepspeed(value: str | Content) -> Content:
    """The content of a JSON file, or a map as it is."""
    if isinstance(value, dict):
        return value
    try:
        content = read_json(Path(value))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{value}: cannot be read as DeepSpeed's JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{value}:1:1: expected a map of DeepSpeed's keys")
    return content


def wants_bf16(value: str | Content) -> bool | None:
    """What the JSON says about bfloat16 outright; None where it says "auto", or nothing."""
    enabled = _bf16(read_deepspeed(value)).get("enabled")
    return enabled if isinstance(enabled, bool) else None


def zero_stage(value: str | Content | None) -> int:
    """Which ZeRO stage the JSON asks for; 0 where it asks for none."""
    if value is None:
        return 0
    stage = _section(read_deepspeed(value), "zero_optimization").get("stage", 0)
    return stage if isinstance(stage, int) else 0


def unknown_autos(content: Mapping[str, Any]) -> Iterator[KeyPath]:
    """The places at which "auto" stands and nobody knows what to put there."""
    return (path for path in _autos(content, ()) if path not in _FILLED and path[0] not in _LEFT_OUT)


def _autos(node: Any, path: KeyPath) -> Iterator[KeyPath]:
    match node:
        case dict():
            for key, inner in node.items():
                yield from _autos(inner, (*path, key))
        case list():
            for i, inner in enumerate(node):
                yield from _autos(inner, (*path, i))
        case "auto":
            yield path


def fill(
    value: str | Content,
    args: TrainingArgs,
    *,
    bf16: bool,
    hidden_size: int,
    world_size: int,
    conversations_per_step: int | None = None,
) -> DeepSpeed:
    """What DeepSpeed is given for the JSON `value`. Raises ConfigError where it cannot be filled.

    bf16: whether the model computes in bfloat16; hidden_size: the model's; conversations_per_step: RunConfig's.
    What `value` states agrees with `args`: `deepspeed_checks` saw to that when the configuration was read.
    """
    given = deepcopy(read_deepspeed(value))
    for path in unknown_autos(given):
        raise ConfigError(
            f'deepspeed: {dotted(path)}: finetune does not know what "auto" is here; write a value'
        )
    _check_batch(given, conversations_per_step or args.batches.conversations(world_size))
    stage, zero = zero_stage(given), _filled_zero(_section(given, "zero_optimization"), hidden_size)
    offloaded = _is_offloaded(zero, "optimizer")
    content: Content = {"steps_per_print": _NEVER, "wall_clock_breakdown": False}
    content |= {key: section for key, section in given.items() if key not in _LEFT_OUT}
    content |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": args.optimizer.max_grad_norm,
        "bf16": _bf16(given) | {"enabled": bf16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
    }
    content |= _data_types(given, wide=bf16 and stage > 0)
    if offloaded:
        content["zero_force_ds_cpu_optimizer"] = False
    notices = [*_lacking(given, args), *_left_out(given, args)]
    notices += [_TORCHS_OWN] if offloaded else []
    notices += [_NARROW_SUM] if bf16 and stage == 0 else []
    return DeepSpeed(stage, offloaded or _is_offloaded(zero, "param"), content, tuple(notices))


_NARROW_SUM = (
    "deepspeed: without ZeRO it adds up gradients in bfloat16; remove training_args.deepspeed, "
    "or set zero_optimization.stage, to have them in float32"
)
_TORCHS_OWN = (
    "deepspeed: the offloaded optimizer is torch's own (zero_force_ds_cpu_optimizer: false); "
    "DeepSpeed's would first be compiled for a minute or two"
)


def _section(content: Content, key: str) -> Content:
    """The map at `key`; an empty one where there is none."""
    section = content.get(key)
    return section if isinstance(section, dict) else {}


def _bf16(content: Content) -> Content:
    return _section(content, "bf16" if "bf16" in content else "bfloat16")


def _check_batch(given: Content, made: int) -> None:
    """A train_batch_size that is stated must be the conversations that a step has."""
    if given.get("train_batch_size", AUTO) not in (AUTO, made):
        stated = given["train_batch_size"]
        raise ConfigError(
            f'deepspeed: train_batch_size is {stated}, a step has {made} conversations; write "auto"'
        )


def _filled_zero(zero: Content, hidden_size: int) -> Content:
    """zero_optimization with transformers' values for "auto"."""
    values = {
        "reduce_bucket_size": hidden_size * hidden_size,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "stage3_param_persistence_threshold": 10 * hidden_size,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    return {key: values[key] if value == AUTO and key in values else value for key, value in zero.items()}


def _is_offloaded(zero: Content, part: str) -> bool:
    """Whether "optimizer" or "param" lies elsewhere, by today's key or by DeepSpeed's old one."""
    old = {"optimizer": "cpu_offload", "param": "cpu_offload_param"}[part]
    return _section(zero, f"offload_{part}").get("device") in ("cpu", "nvme") or zero.get(old) is True


def _data_types(given: Content, wide: bool) -> Content:
    """wide: add up the gradients of micro-batches in float32, unless the user says in what."""
    types = {key: value for key, value in _section(given, "data_types").items() if value != AUTO}
    types = ({"grad_accum_dtype": "fp32"} if wide else {}) | types
    return {"data_types": types} if types or "data_types" in given else {}


def _lacking(given: Content, args: TrainingArgs) -> Iterator[str]:
    """For keys that the file does not have, not even as "auto": DeepSpeed alone would not ask training_args."""
    steps, norm = args.batches.gradient_accumulation_steps, args.optimizer.max_grad_norm
    if "gradient_accumulation_steps" not in given:
        said = "training_args.gradient_accumulation_steps"
        yield f"deepspeed: gradient_accumulation_steps is {steps}, {said}"
    if "gradient_clipping" not in given:
        yield f"deepspeed: gradient_clipping is {norm}, training_args.max_grad_norm"


def _left_out(given: Content, args: TrainingArgs) -> Iterator[str]:
    deciders = {
        "optimizer": f"optim ({args.optimizer.optim})",
        "scheduler": f"lr_scheduler_type ({args.schedule.lr_scheduler_type})",
        "activation_checkpointing": "gradient_checkpointing",
    }
    for key in [key for key in deciders if key in given]:
        kind = _section(given, key).get("type")
        what = f"{key} ({kind})" if kind else key
        yield f"deepspeed: the section {what} is left out; training_args.{deciders[key]} decides"
