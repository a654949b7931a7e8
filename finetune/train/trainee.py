"""What is trained, and what changes it: model, objective, optimizer, schedule, on their device."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from finetune import log
from finetune.config.placement import GradientCheckpointing
from finetune.config.schema import Config
from finetune.model.attention import Layout
from finetune.model.head import SupervisedLoss
from finetune.model.layout import choose_layout, use_layout
from finetune.model.load import DTYPES, load_base
from finetune.model.tuning import Tuned, apply_tuning, load_adapter
from finetune.train.optimizer import make_optimizer, make_schedule


@dataclass(frozen=True, slots=True)
class Trainee:
    """The model and what changes it. `autocast_dtype`: of the arithmetic, where the weights are kept wider."""

    tuned: Tuned
    objective: SupervisedLoss
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    accelerator: Accelerator
    layout: Layout
    autocast_dtype: torch.dtype | None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by name."""
        return dict(self.tuned.trainable())

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of forward passes."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)


def make_trainee(
    config: Config, model: str, accelerator: Accelerator, *, longest: int, total_steps: int
) -> Trainee:
    """Load the base, tune it as configured, and choose its layout for examples of up to `longest` tokens."""
    arguments = config.training_args
    set_seed(arguments.batches.seed)
    tuned = load_tuned(config, model, accelerator.device)
    layout, why = choose_layout(tuned, config.model.attention, longest)
    use_layout(tuned, layout)
    log.info(f"{layout} batches: {why}")
    if arguments.placement.gradient_checkpointing:
        _checkpoint_gradients(tuned.base, arguments.placement.gradient_checkpointing_kwargs)
    objective = SupervisedLoss(
        tuned,
        flat=layout == "flat",
        label_smoothing=arguments.objective.label_smoothing_factor,
        neftune_alpha=arguments.objective.neftune_noise_alpha,
    )
    optimizer = make_optimizer(arguments.optimizer, tuned.trainable())
    schedule = make_schedule(arguments.schedule, optimizer, total_steps)
    return Trainee(tuned, objective, optimizer, schedule, accelerator, layout, autocast_dtype(config, tuned))


def load_tuned(config: Config, model: str, device: torch.device) -> Tuned:
    """The base model with what is to be learnt on it: a new adapter, a given one, or all its weights."""
    base = load_base(model, config.model, device=device, dtype=DTYPES.get(config.model.dtype))
    if config.model.adapter is not None:
        tuned = load_adapter(base, Path(config.model.adapter), trainable=True)
    else:
        tuned = apply_tuning(base, config.peft_config, freeze=config.model.freeze)
    learns = sum(parameter.numel() for _, parameter in tuned.trainable())
    frozen = sum(parameter.numel() for _, parameter in tuned.frozen())
    share = 100 * learns / (learns + frozen)
    log.info(f"{type(tuned.base).__name__}: {learns:,} of {learns + frozen:,} weights learn ({share:.2f} %)")
    return tuned


def autocast_dtype(config: Config, tuned: Tuned) -> torch.dtype | None:
    """bfloat16 over wider weights, where `bf16` asks for it or the base came in it; None: as they are."""
    if tuned.mixed:
        return tuned.base_dtype
    narrow = torch.bfloat16
    wanted = config.training_args.placement.bf16 or tuned.base_dtype == narrow
    wide = tuned.kind == "full" or tuned.base_dtype == torch.float32
    return narrow if wanted and wide else None


def _checkpoint_gradients(base: PreTrainedModel, section: GradientCheckpointing | None) -> None:
    """Recompute activations; not reentrant unless asked: frozen embeddings would stop the gradient there."""
    asked = {} if section is None else section.model_dump(exclude_none=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers is renaming the method
        base.gradient_checkpointing_enable({"use_reentrant": False} | asked)
