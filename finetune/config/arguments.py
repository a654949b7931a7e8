"""The `training_args` we honour, grouped by the part of training that owns them.

Names, meanings and defaults are those of transformers.Seq2SeqTrainingArguments, which is never imported here:
a test compares both. In YAML the keys stand flat under `training_args`; parsing hands every section its own.
"""

import math
from ast import literal_eval
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from finetune.config.generation import Evaluation, GenerationConfig
from finetune.config.output import Logging, Saving
from finetune.config.placement import GradientCheckpointing, Placement
from finetune.config.section import (
    Count,
    NotNegative,
    Positive,
    Section,
    Share,
    StepsOrNone,
    is_same,
)
from finetune.config.transformers_keys import NO_EFFECT, NOT_HONOURED

__all__ = [
    "OWNERS",
    "Batches",
    "Evaluation",
    "GenerationConfig",
    "GradientCheckpointing",
    "Logging",
    "Objective",
    "Optimizer",
    "Placement",
    "Saving",
    "Schedule",
    "TrainingArgs",
    "at_default",
    "count_steps",
]


def split_options(text: str) -> dict[str, Any]:
    """`name=value,name=value`, the values Python literals."""
    options: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        name, _, value = part.partition("=")
        try:
            options[name.strip()] = literal_eval(value.strip())
        except (ValueError, SyntaxError):
            raise ValueError(
                f"expected name=value,name=value with values as in Python, found {part!r}"
            ) from None
    return options


def _with_options(text: str | None) -> str | None:
    split_options(text or "")
    return text


class Optimizer(Section):
    """How weights are updated."""

    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_8bit",
        "adamw_bnb_8bit",
        "paged_adamw_8bit",
        "sgd",
        "adafactor",
        "adagrad",
        "rmsprop",
    ] = "adamw_torch_fused"
    """The optimizer; the 8-bit ones come from bitsandbytes, or with run.master_weights from here."""

    optim_args: Annotated[str | None, AfterValidator(_with_options)] = None
    """Options of the optimizer, as `name=value,name=value`."""

    learning_rate: Positive = 5e-5
    """At its highest, after warm-up."""

    weight_decay: NotNegative = 0.0
    """Not applied to biases and norms."""

    adam_beta1: Share = 0.9
    """Decay of the first moment."""

    adam_beta2: Share = 0.999
    """Decay of the second moment."""

    adam_epsilon: Positive = 1e-8
    """Added to the denominator of the update."""

    max_grad_norm: NotNegative = 1.0
    """Gradients are scaled down to this norm; 0: never."""

    @property
    def options(self) -> dict[str, Any]:
        """`optim_args` as keyword arguments."""
        return split_options(self.optim_args or "")


def _some_steps(value: int) -> int:
    if value == 0:
        raise ValueError("0 steps train nothing; write -1 to train num_train_epochs")
    return value


class Schedule(Section):
    """How long training lasts, and the learning rate on the way."""

    max_steps: Annotated[int, Field(ge=-1), AfterValidator(_some_steps)] = -1
    """Optimizer steps; -1: as many as num_train_epochs make."""

    num_train_epochs: Positive = 3.0
    """Times every conversation is seen, where max_steps does not decide."""

    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
    ] = "linear"
    """The shape of the learning rate over the run."""

    lr_scheduler_kwargs: dict[str, Any] | None = None
    """Options of that shape, such as `{num_cycles: 2}`."""

    warmup_steps: StepsOrNone = 0
    """Steps in which the learning rate rises from 0; below 1 a share of all steps."""


class Batches(Section):
    """How many conversations are computed at once, and in which order."""

    per_device_train_batch_size: Count = 8
    """Conversations of one process in one optimizer step, divided by gradient_accumulation_steps."""

    per_device_eval_batch_size: Count = 8
    """Answers written at once, at least; more where the memory for their keys is little beside the weights."""

    gradient_accumulation_steps: Count = 1
    """Times per_device_train_batch_size times processes: the conversations of one optimizer step."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Of everything random in a run."""

    data_seed: Annotated[int, Field(ge=0)] | None = None
    """Of the order of the conversations; null: seed."""

    @property
    def order_seed(self) -> int:
        """What decides the order of the conversations."""
        return self.seed if self.data_seed is None else self.data_seed

    def conversations(self, processes: int) -> int:
        """The conversations of one optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * processes


class Objective(Section):
    """What is minimised, besides the plain loss."""

    label_smoothing_factor: Share = 0.0
    """The share of probability that is spread evenly over all tokens."""

    neftune_noise_alpha: NotNegative | None = None
    """Strength of NEFTune's noise on the embeddings; null: none."""


class TrainingArgs(Section):
    """The flat keys of `training_args`, each in the section that owns it."""

    # The aliases cannot be written by mistake, so that a key `saving` in YAML is as unknown as it looks.
    optimizer: Optimizer = Field(default_factory=Optimizer, alias="<optimizer>")
    schedule: Schedule = Field(default_factory=Schedule, alias="<schedule>")
    batches: Batches = Field(default_factory=Batches, alias="<batches>")
    saving: Saving = Field(default_factory=Saving, alias="<saving>")
    logging: Logging = Field(default_factory=Logging, alias="<logging>")
    evaluation: Evaluation = Field(default_factory=Evaluation, alias="<evaluation>")
    placement: Placement = Field(default_factory=Placement, alias="<placement>")
    objective: Objective = Field(default_factory=Objective, alias="<objective>")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, flat: Any) -> Any:
        """Hand every key to its section; keys that nobody owns stay behind, to be refused."""
        if not isinstance(flat, dict):
            return flat
        kept = {key: value for key, value in flat.items() if not at_default(key, value)}
        split: dict[str, Any] = {key: value for key, value in kept.items() if key not in OWNERS}
        for key in kept.keys() & OWNERS.keys():
            split.setdefault(OWNERS[key], {})[key] = kept[key]
        return split

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for section in handler(self).values() for key, value in section.items()}

    @property
    def steps_between_evaluations(self) -> float:
        """`eval_steps`, or `logging_steps` where that is not given: transformers' rule. Below 1: a share."""
        return self.evaluation.eval_steps or self.logging.logging_steps


def at_default(key: str, value: object) -> bool:
    """Whether this is a key that changes nothing here, standing where transformers itself puts it."""
    if key in NO_EFFECT:
        return is_same(value, NO_EFFECT[key].default)
    return key in NOT_HONOURED and is_same(value, NOT_HONOURED[key])


def count_steps(steps: float, total: int) -> int:
    """A count of steps as it is; a share (below 1) of `total` steps, rounded up."""
    return int(steps) if steps >= 1 else math.ceil(steps * total)


SECTIONS: Mapping[str, type[Section]] = {
    "<optimizer>": Optimizer,
    "<schedule>": Schedule,
    "<batches>": Batches,
    "<saving>": Saving,
    "<logging>": Logging,
    "<evaluation>": Evaluation,
    "<placement>": Placement,
    "<objective>": Objective,
}
OWNERS: Mapping[str, str] = {key: alias for alias, section in SECTIONS.items() for key in section.model_fields}
"""Key of training_args -> alias of the section that owns it."""
