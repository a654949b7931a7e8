"""What a DeepSpeed JSON says that cannot hold beside the YAML; told where it stands, before anything is loaded.

The JSON is a file of its own, or a map in the YAML. "auto" agrees with everything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from finetune.config.arguments import OWNERS, SECTIONS
from finetune.config.deepspeed import AUTO, unknown_autos
from finetune.config.deepspeed_keys import FIXED, GONE, NOT_BUILT, TOP_LEVEL, ZERO
from finetune.config.document import read_json
from finetune.config.draft import Draft, KeyPath, dotted
from finetune.config.mistakes import describe, unexpected
from finetune.config.names import closest, spelt
from finetune.errors import ConfigError

_AT: KeyPath = ("training_args", "deepspeed")


@dataclass(frozen=True, slots=True)
class _Json:
    """DeepSpeed's keys stand in `draft` below `root`; `yaml` is what they must agree with."""

    draft: Draft
    root: KeyPath
    yaml: Draft

    def get(self, *path: str | int, default: Any = None) -> Any:
        """The value at `path`; `default` where there is none, or null."""
        value = self.draft.get((*self.root, *path))
        return default if value is None else value

    def section(self, *path: str) -> dict[str, Any]:
        """The map at `path`; an empty one where there is none."""
        section = self.get(*path)
        return section if isinstance(section, dict) else {}

    def asked(self, key: str) -> Any:
        """What training_args says, or its default."""
        default = SECTIONS[OWNERS[key]].model_fields[key].default
        return self.yaml.get(("training_args", key), default)

    def refuse(self, path: Sequence[str | int], what: str, *, value: bool = True) -> None:
        self.draft.refuse((*self.root, *path), what, value=value)


def check_deepspeed(yaml: Draft) -> None:
    """Note in `yaml` every mistake of the JSON that its training_args.deepspeed names or holds."""
    found = _open(yaml)
    if found is None:
        return
    for check in _CHECKS:
        check(found)
    if found.draft is not yaml:
        yaml.mistakes += found.draft.mistakes


def _open(yaml: Draft) -> _Json | None:
    """The JSON; None where there is none, or none that can be read, which is noted."""
    value = yaml.get(_AT)
    if isinstance(value, dict):
        return _Json(yaml, _AT, yaml)
    if isinstance(value, list):
        yaml.refuse(_AT, "expected a map of DeepSpeed's keys, found a list", value=True)
    if not isinstance(value, str) or not Path(value).is_file():
        return None
    try:
        return _Json(read_json(Path(value)), (), yaml)
    except ConfigError as error:
        yaml.refuse(_AT, str(error), value=True)
        return None


def _known_keys(found: _Json) -> None:
    _known_in(found, (), TOP_LEVEL, {"zero_optimization": ZERO})
    _known_in(found, ("zero_optimization",), ZERO, {"": TOP_LEVEL})


def _known_in(
    found: _Json, level: tuple[str, ...], known: frozenset[str], others: Mapping[str, frozenset[str]]
) -> None:
    for key in found.section(*level).keys() - known:
        home = next((other for other, names in others.items() if key in names), None)
        if key in GONE and not level:
            what = "DeepSpeed has this no more; remove it"
        elif home is not None:
            what = f"belongs under {home}" if home else "belongs at the top level of DeepSpeed's keys"
        else:
            close = closest(key, sorted(known))
            what = f"unknown key; did you mean {close}?" if close else "no key of DeepSpeed's; remove it"
        found.refuse((*level, key), what, value=False)


_MAPS = ("bf16", "bfloat16", "data_types", "fp16", "optimizer", "scheduler", "zero_optimization")


def _maps(found: _Json) -> None:
    for key in _MAPS:
        if key in found.section() and not isinstance(found.section()[key], dict):
            found.refuse((key,), unexpected(found.section()[key], "a map"))


def _autos(found: _Json) -> None:
    told = {mistake.key for mistake in found.draft.mistakes}
    for path in unknown_autos(found.section()):
        above = {dotted((*found.root, *path[:depth])) for depth in range(1, len(path) + 1)}
        if not told & above:
            found.refuse(path, 'finetune does not know what "auto" is here; write a value')


def _not_built(found: _Json) -> None:
    for path, why in NOT_BUILT.items():
        section = found.get(*path)
        is_off = section in (None, {}, False) or (isinstance(section, dict) and section.get("enabled") is False)
        if not is_off:
            found.refuse(path, f"{why}; remove it", value=False)
    for path, only in FIXED.items():
        if (value := found.get(*path, default=only)) != only:
            found.refuse(path, f"finetune needs {spelt(only)} here, found {spelt(value)}; remove it")


def _stage(found: _Json) -> None:
    stage = found.get("zero_optimization", "stage", default=0)
    if stage not in (0, 1, 2, 3, AUTO) or isinstance(stage, bool):
        found.refuse(("zero_optimization", "stage"), f"expected one of 0, 1, 2, 3, found {describe(stage)}")
    for key in ("offload_optimizer", "offload_param"):
        device = found.get("zero_optimization", key, "device", default="none")
        if device not in ("none", "cpu", "nvme", AUTO):
            what = f"expected one of none, cpu, nvme, found {describe(device)}"
            found.refuse(("zero_optimization", key, "device"), what)
        if device == "nvme" and not found.get("zero_optimization", key, "nvme_path"):
            found.refuse(("zero_optimization", key, "device"), "nvme needs nvme_path, a folder on that disk")


def _precision(found: _Json) -> None:
    if found.get("fp16", "enabled") is True:
        what = "float16 gradients underflow without loss scaling, which finetune does not do; use bf16"
        found.refuse(("fp16", "enabled"), what)
    dtype = found.yaml.get(("model_config", "dtype"), "auto")
    for key in ("bf16", "bfloat16"):
        match found.get(key, "enabled"):
            case True if dtype in ("float32", "float16"):
                found.refuse((key, "enabled"), f"is true, model_config.dtype is {dtype}{_WRITE_AUTO}")
            case False if dtype == "bfloat16":
                found.refuse((key, "enabled"), f"is false, model_config.dtype is bfloat16{_WRITE_AUTO}")
            case False if found.asked("bf16") is True:
                found.refuse((key, "enabled"), f"is false, training_args.bf16 is true{_WRITE_AUTO}")


_WRITE_AUTO = '; write "auto"'


def _agrees(found: _Json, path: Sequence[str | int], ours: str) -> None:
    """What is stated at `path` must be what training_args say."""
    value, asked = found.get(*path, default=AUTO), found.asked(ours)
    if value not in (AUTO, asked) and isinstance(asked, int | float):
        found.refuse(path, f"is {spelt(value)}, training_args.{ours} is {spelt(asked)}{_WRITE_AUTO}")


def _batches(found: _Json) -> None:
    micro, accumulation = "per_device_train_batch_size", "gradient_accumulation_steps"
    _agrees(found, ("train_micro_batch_size_per_gpu",), micro)
    _agrees(found, ("gradient_accumulation_steps",), accumulation)
    _agrees(found, ("gradient_clipping",), "max_grad_norm")
    total = found.get("train_batch_size", default=AUTO)
    in_step = found.yaml.get(("run", "conversations_per_step"))
    counts = [in_step] if in_step is not None else [found.asked(micro), found.asked(accumulation)]
    if total == AUTO or not all(isinstance(count, int) and count > 0 for count in counts):
        return
    of = prod(counts)
    if not isinstance(total, int) or total <= 0 or total % of or (in_step and total != of):
        ours = (
            f"run.conversations_per_step is {of}"
            if in_step
            else f"no multiple of {micro} x {accumulation}, {of}"
        )
        found.refuse(("train_batch_size",), f"is {spelt(total)}, {ours}{_WRITE_AUTO}")


_OPTIMIZER: Mapping[tuple[str | int, ...], str] = {
    ("lr",): "learning_rate",
    ("betas", 0): "adam_beta1",
    ("betas", 1): "adam_beta2",
    ("eps",): "adam_epsilon",
    ("weight_decay",): "weight_decay",
}
_ADAMW: Mapping[str, object] = {"adam_w_mode": True, "bias_correction": True, "amsgrad": False}
"""Further options of DeepSpeed's AdamW, as ours has them. `torch_adam` is about the implementation."""


def _optimizer(found: _Json) -> None:
    kind = found.get("optimizer", "type", default=AUTO)
    if not isinstance(kind, str) or kind.lower() not in ("adamw", "adam", AUTO):
        what = (
            f"expected AdamW or Adam, found {describe(kind)}; training_args.optim decides, remove the section"
        )
        found.refuse(("optimizer", "type"), what)
        return
    if kind != AUTO and "adamw" not in str(asked := found.asked("optim")):
        what = f"is {kind}, training_args.optim is {asked}; remove the section"
        found.refuse(("optimizer", "type"), what)
        return
    if not isinstance(betas := found.get("optimizer", "params", "betas", default=[]), list) and betas != AUTO:
        found.refuse(("optimizer", "params", "betas"), unexpected(betas, "a list"))
    for path, ours in _OPTIMIZER.items():
        _agrees(found, ("optimizer", "params", *path), ours)
    ours_too = {*_ADAMW, "torch_adam", *(path[0] for path in _OPTIMIZER)}
    for key, value in found.section("optimizer", "params").items():
        if value != _ADAMW.get(key, value) or (key not in ours_too and value != AUTO):
            found.refuse(
                ("optimizer", "params", key), "training_args.optim_args decides; remove it", value=False
            )


_SCHEDULER = {
    "warmup_num_steps": "warmup_steps",
    "total_num_steps": "max_steps",
    "warmup_max_lr": "learning_rate",
}
_WARMUP: Mapping[str, object] = {"warmup_min_lr": 0, "warmup_type": "linear"}
"""Options that are always so here."""


def _scheduler(found: _Json) -> None:
    for key, value in found.section("scheduler", "params").items():
        if key in _SCHEDULER:
            _agrees(found, ("scheduler", "params", key), _SCHEDULER[key])
        elif value not in (AUTO, None, _WARMUP.get(key)):
            what = "training_args.lr_scheduler_type and lr_scheduler_kwargs decide; remove it"
            found.refuse(("scheduler", "params", key), what, value=False)


_CHECKS: Sequence[Callable[[_Json], None]] = (
    _known_keys,
    _maps,
    _autos,
    _not_built,
    _stage,
    _precision,
    _batches,
    _optimizer,
    _scheduler,
)
