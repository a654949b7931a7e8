"""The optimizer and its schedule, as `training_args` names them and transformers documents them."""

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, Adafactor, get_scheduler
from transformers.trainer_utils import SchedulerType

from finetune.config.arguments import Optimizer, Schedule, count_steps
from finetune.config.library_options import optimizer_options, schedule_options
from finetune.config.sections import MasterWeights
from finetune.errors import ConfigError, MissingLibraryError
from finetune.train.masters import NarrowAdamW

NamedParameters = Iterable[tuple[str, nn.Parameter]]

# transformers exempts the same names from weight decay.
_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Options:
    """All options of something, and the names of those that a person gave."""

    values: Mapping[str, Any]
    given: Collection[str]


def make_optimizer(
    section: Optimizer,
    parameters: NamedParameters,
    masters: MasterWeights = "float32",
    rates: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer `optim` names, over the trainable parameters; biases and norms without weight decay.

    `masters`: where bfloat16 weights keep what they lack of float32, as `run.master_weights` says.
    `rates`: by name, of parameters with a learning rate of their own. The groups at the common rate come first.
    """
    rates = rates or {}
    groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
    for rate in (None, *dict.fromkeys(rates.values())):
        groups |= {(rate, True): [], (rate, False): []}
    for name, parameter in parameters:
        groups[rates.get(name), not _UNDECAYED.search(name)].append(parameter)
    return _of_name(
        section,
        [
            {"params": some, "weight_decay": section.weight_decay if decays else 0.0}
            | ({} if rate is None else {"lr": rate})
            for (rate, decays), some in groups.items()
            if some
        ],
        masters,
    )


def _of_name(
    section: Optimizer, groups: list[dict[str, object]], masters: MasterWeights
) -> torch.optim.Optimizer:
    rate: dict[str, Any] = {"lr": section.learning_rate}
    adam = rate | {"betas": (section.adam_beta1, section.adam_beta2), "eps": section.adam_epsilon}
    makers: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
        "adamw_torch": (torch.optim.AdamW, adam),
        "adamw_torch_fused": (torch.optim.AdamW, adam),
        "sgd": (torch.optim.SGD, rate),
        "adagrad": (torch.optim.Adagrad, rate),
        "rmsprop": (torch.optim.RMSprop, rate),
        "adafactor": (Adafactor, rate),
    }
    where = f"training_args.optim_args: {section.optim}"
    if masters == "float32":
        maker, options = makers.get(section.optim) or (_eight_bit(section.optim), adam)
        options = options | known_options(maker, options_of(section), where)
    else:
        maker, options = NarrowAdamW, adam | {"masters": masters, "eight_bit": "8bit" in section.optim}
        options |= section.options
    try:
        return maker(groups, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def options_of(section: Optimizer) -> Options:
    """Every option of the optimizer and which of them were given. Raises ConfigError for a wrong one."""
    try:
        return Options(optimizer_options(section), section.options.keys())
    except ValidationError as error:
        raise ConfigError(f"training_args.optim_args: {section.optim}: {_first(error)}") from error


def known_options(function: Callable[..., Any], options: Options, where: str) -> dict[str, Any]:
    """The options that this version of a library knows.

    One that it does not know is left out at its default, which is then what the library does without it.
    Raises ConfigError for one that was given.
    """
    known = inspect.signature(function).parameters
    missing = [name for name in options.values if name not in known]
    if given := [name for name in missing if name in options.given]:
        raise ConfigError(f"{where}: the installed version has no option {given[0]}; remove it, or update")
    return {name: value for name, value in options.values.items() if name in known}


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"


def _eight_bit(optim: str) -> Callable[..., torch.optim.Optimizer]:
    if find_spec("bitsandbytes") is None:
        raise MissingLibraryError(f"optim: {optim}", "bitsandbytes", "quantization")
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return PagedAdamW8bit if optim.startswith("paged") else AdamW8bit


def make_schedule(section: Schedule, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """The learning rate over `total_steps` optimizer steps; `warmup_steps` below 1 is a share of them."""
    kind, given = section.lr_scheduler_type, section.lr_scheduler_kwargs or {}
    where = f"training_args.lr_scheduler_kwargs: {kind}"
    function = cast(Any, TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(kind)])
    try:
        options = Options(schedule_options(section), given.keys())
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error)}") from error
    return get_scheduler(
        kind,
        optimizer,
        num_warmup_steps=count_steps(section.warmup_steps, total_steps),
        num_training_steps=total_steps,
        scheduler_specific_kwargs=known_options(function, options, where),
    )
