"""The optimizer and its schedule, as `training_args` names them and transformers documents them."""

import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.optimization import Adafactor, get_scheduler

from finetune.config.arguments import Optimizer, Schedule, count_steps
from finetune.config.sections import MasterWeights
from finetune.errors import ConfigError, MissingLibraryError
from finetune.train.masters import NarrowAdamW

NamedParameters = Iterable[tuple[str, nn.Parameter]]

# transformers exempts the same names from weight decay.
_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)


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
        "adamw_torch_fused": (torch.optim.AdamW, adam | {"fused": True}),
        "sgd": (torch.optim.SGD, rate),
        "adagrad": (torch.optim.Adagrad, rate),
        "rmsprop": (torch.optim.RMSprop, rate),
        "adafactor": (Adafactor, rate | {"scale_parameter": False, "relative_step": False}),
    }
    if masters == "float32":
        maker, options = makers.get(section.optim) or (_eight_bit(section.optim), adam)
    else:
        maker, options = NarrowAdamW, adam | {"masters": masters, "eight_bit": "8bit" in section.optim}
    try:
        return maker(groups, **(options | section.options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training_args.optim_args: {section.optim}: {error}") from error


def _eight_bit(optim: str) -> Callable[..., torch.optim.Optimizer]:
    if find_spec("bitsandbytes") is None:
        raise MissingLibraryError(f"optim: {optim}", "bitsandbytes", "quantization")
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return PagedAdamW8bit if optim.startswith("paged") else AdamW8bit


def make_schedule(section: Schedule, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """The learning rate over `total_steps` optimizer steps; `warmup_steps` below 1 is a share of them."""
    return get_scheduler(
        section.lr_scheduler_type,
        optimizer,
        num_warmup_steps=count_steps(section.warmup_steps, total_steps),
        num_training_steps=total_steps,
        scheduler_specific_kwargs=dict(section.lr_scheduler_kwargs or {}),
    )
