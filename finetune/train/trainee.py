"""What is trained, and what changes it: model, objective, optimizer, schedule, on their device."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from peft import PeftModel
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune import log
from finetune.chat.sight import Sight
from finetune.config.arguments import count_steps
from finetune.config.library_options import schedule_options
from finetune.config.schema import Config
from finetune.estimate.precision import NAMES, Precision
from finetune.model.attention import Layout
from finetune.model.head import SupervisedLoss, is_direct
from finetune.model.layout import choose_layout, use_layout
from finetune.model.lean import keep_less
from finetune.model.load import DTYPES, load_base
from finetune.model.mapped import map_base
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning, load_adapter
from finetune.model.vision import Vision, tower_learns, vision_of
from finetune.train.opening import Opening
from finetune.train.optimizer import make_optimizer, make_schedule
from finetune.train.parallel.back_end import BackEnd
from finetune.train.parallel.sharing import Sharing
from finetune.train.rates import own_rates


@dataclass(frozen=True, slots=True)
class Trainee:
    """The model and what changes it."""

    tuned: Tuned
    objective: SupervisedLoss
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    back_end: BackEnd
    device: torch.device
    layout: Layout
    vision: Vision | None
    """The eyes of a model that sees."""

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of forward passes that are not the objective's."""
        return self.objective.autocast(self.device)


def make_trainee(
    config: Config,
    model: str,
    device: torch.device,
    *,
    longest: int,
    total_steps: int,
    recompute: int = 0,
    sight: Sight | None = None,
    opening: Opening | None = None,
    precision: Precision | None = None,
) -> Trainee:
    """Load the base, tune it as configured, and choose its layout for examples of up to `longest` tokens.

    recompute: the interval of the layers that are computed a second time in the backward pass; 0: none.
    sight: how the checkpoint takes pictures, where examples may have some. precision: of the frozen weights and
    their products; None: as they are stored. opening: what a prefix starts as.
    """
    arguments = config.training_args
    set_seed(arguments.batches.seed)
    sharing = Sharing.of(config, model)
    tuned = load_tuned(config, model, device, sharing, precision)
    _tell_of_router_loss(tuned, model)
    learns = sum(parameter.numel() for _, parameter in tuned.trainable())
    total = learns + sum(parameter.numel() for _, parameter in tuned.frozen())
    log.info(
        f"{type(tuned.base).__name__}: {learns:,} of {total:,} weights learn ({100 * learns / total:.2f} %)"
    )
    if recompute:
        _checkpoint_gradients(tuned, config, reentrant=sharing.reentrant_checkpointing)
        _keep_others(tuned, recompute)
    if device.type == "cpu" and sharing.kind == "replicated":
        keep_less(tuned.model)
    vision = vision_of(tuned.base, sight)
    looks_always = sharing.weights or tower_learns(tuned.trainable())
    sharing.take_apart(tuned, device)
    objective = SupervisedLoss(
        tuned,
        flat=False,
        label_smoothing=arguments.objective.label_smoothing_factor,
        neftune_alpha=arguments.objective.neftune_noise_alpha,
        autocast_dtype=sharing.autocast_dtype(tuned),
        looks_always=vision if looks_always else None,
    )
    rates = own_rates(config.run, tuned, arguments.optimizer.learning_rate)
    optimizer = make_optimizer(arguments.optimizer, tuned.trainable(), config.run.master_weights, rates)
    schedule = make_schedule(arguments.schedule, optimizer, total_steps)
    back_end = sharing.back_end(objective, dict(tuned.trainable()), optimizer)
    if opening is not None:
        opening.write(tuned, objective, back_end, device)
    layout, why = choose_layout(tuned, config.model.attention, longest, device)
    use_layout(tuned, layout)
    objective.flat = layout == "flat"
    objective.direct = is_direct(objective, device)
    log.info(f"{layout} batches: {why}")
    return Trainee(tuned, objective, optimizer, schedule, back_end, device, layout, vision)


def effective(trainee: Trainee, config: Config, total_steps: int) -> dict[str, Any]:
    """What the libraries were given, each value stated: for run.json, beside what was asked."""
    schedule = config.training_args.schedule
    model = trainee.tuned.model
    return {
        "peft_config": _plain(model.active_peft_config.to_dict()) if isinstance(model, PeftModel) else None,
        "optimizer": {"class": type(trainee.optimizer).__name__, **_plain(trainee.optimizer.defaults)},
        "lr_scheduler": {
            "type": schedule.lr_scheduler_type,
            "num_warmup_steps": count_steps(schedule.warmup_steps, total_steps),
            "num_training_steps": total_steps,
            **schedule_options(schedule),
        },
    }


def _plain(value: Any) -> Any:
    """As JSON has it; sets in order."""
    match value:
        case Enum():
            return value.value
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(map(_plain, value))
        case list() | tuple():
            return [_plain(item) for item in value]
        case torch.Tensor():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def load_tuned(
    config: Config, model: str, device: torch.device, sharing: Sharing, precision: Precision | None = None
) -> Tuned:
    """The base model with what is to be learnt on it: a new adapter, a given one, or all its weights."""
    if sharing.weights:
        base = map_base(model, config.model)
    else:
        base = load_base(model, config.model, device=device, dtype=sharing.load_dtype(), precision=precision)
    whole_model = config.peft_config is None and config.model.adapter is None
    # DeepSpeed widens what it keeps, and so do optimizers that keep what bfloat16 lacks.
    wide = not (sharing.weights or (sharing.kind == "zero" and whole_model) or sharing.narrow)
    if config.model.adapter is not None:
        tuned = load_adapter(base, Path(config.model.adapter), trainable=True, wide=wide)
        sharing.refuse_adapter(tuned)
    else:
        tuned = apply_tuning(base, config.peft_config, freeze=config.model.freeze, wide=wide)
    if precision is not None and precision.widened:
        return replace(tuned, base_dtype=DTYPES[NAMES[precision.stored]], computed_in=torch.float32)
    return tuned if sharing.kind == "replicated" else replace(tuned, base_dtype=sharing.dtype)


def _tell_of_router_loss(tuned: Tuned, model: str) -> None:
    """An auxiliary loss that a checkpoint asks for, and that is no part of the objective here.

    It compares how often the experts are chosen over all tokens computed at once: no sum over tokens, so it
    would change with the size of a micro-batch and the number of processes.
    """
    shape = tuned.base.config.get_text_config().to_dict()
    if shape.get("output_router_logits"):
        log.warning(
            f"{model}: config.json: output_router_logits: true asks for the auxiliary loss of the router "
            f"(router_aux_loss_coef {shape.get('router_aux_loss_coef')}); finetune trains without it, because "
            "it depends on which conversations are computed together. Experts may be used less evenly where "
            "routers learn; set it to false to say that you know"
        )


def _checkpoint_gradients(tuned: Tuned, config: Config, *, reentrant: bool) -> None:
    """Recompute activations; not reentrant unless asked: frozen embeddings would stop the gradient there."""
    section = config.training_args.placement.gradient_checkpointing_kwargs
    asked = {} if section is None else section.model_dump(exclude_none=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers is renaming the method
        tuned.base.gradient_checkpointing_enable({"use_reentrant": reentrant} | asked)
    if reentrant:
        for entrance in _entrances(tuned):
            entrance.register_forward_hook(lambda module, given, output: output.requires_grad_())


def _entrances(tuned: Tuned) -> Iterator[nn.Module]:
    """What stands before the layers that learn, of words and of pictures.

    Reentrant recomputation brings no gradient to layers whose inputs need none.
    """
    yield tuned.base.get_input_embeddings()
    if tower_learns(tuned.trainable(), "tower"):
        yield from (part for name, part in tuned.base.named_modules() if name.endswith("visual.patch_embed"))


def _keep_others(tuned: Tuned, every: int) -> None:
    """Recompute layers 0, every, 2 x every … only; the others keep their activations."""
    layers = [module for module in tuned.base.modules() if isinstance(module, GradientCheckpointingLayer)]
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number % every == 0
