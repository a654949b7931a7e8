"""What `lr_scheduler_kwargs` and `optim_args` may hold: one section for each schedule and optimizer.

Names, meanings and defaults are those of transformers, torch and bitsandbytes, none of which is imported here:
a test compares. The defaults are passed on with what was given, so that a run is what it records, whichever
version of a library computes it.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from finetune.config.arguments import Optimizer, Schedule, split_options
from finetune.config.draft import Draft, KeyPath
from finetune.config.mistakes import wrong_value
from finetune.config.names import closest
from finetune.config.section import Count, NotNegative, OnlyFalse, Positive, Section, Share

WholeSteps = Annotated[int, Field(ge=0)]
Shape = Literal["linear", "cosine", "1-sqrt"]


class NoOptions(Section):
    """Of schedules and optimizers that have none."""


class Cosine(Section):
    num_cycles: NotNegative = 0.5


class Restarts(Section):
    num_cycles: Positive = 1


class Polynomial(Section):
    lr_end: NotNegative = 1e-7
    power: Positive = 1.0


class InverseSqrt(Section):
    timescale: Count | None = None


class CosineToMinimum(Cosine):
    min_lr: NotNegative | None = None
    min_lr_rate: NotNegative | None = None


class CosineToMinimumFromRate(CosineToMinimum):
    warmup_lr_rate: NotNegative | None = None


class WarmupStableDecay(Cosine):
    num_decay_steps: WholeSteps
    num_stable_steps: WholeSteps | None = None
    warmup_type: Shape = "linear"
    decay_type: Shape = "cosine"
    min_lr_ratio: NotNegative = 0


SCHEDULES: Mapping[str, type[Section]] = {
    "linear": NoOptions,
    "cosine": Cosine,
    "cosine_with_restarts": Restarts,
    "polynomial": Polynomial,
    "constant": NoOptions,
    "constant_with_warmup": NoOptions,
    "inverse_sqrt": InverseSqrt,
    "cosine_with_min_lr": CosineToMinimum,
    "cosine_warmup_with_min_lr": CosineToMinimumFromRate,
    "warmup_stable_decay": WarmupStableDecay,
}
"""lr_scheduler_type -> its options."""


class TorchOptimizer(Section):
    """Of torch's optimizers: how a step is computed."""

    maximize: bool = False
    foreach: bool | None = None
    differentiable: bool = False


class TorchAdamW(TorchOptimizer):
    amsgrad: bool = False
    capturable: bool = False
    fused: bool | None = None


class FusedAdamW(TorchOptimizer):
    amsgrad: bool = False
    capturable: bool = False
    fused: bool = True


class BitsAndBytesAdamW(Section):
    min_8bit_size: Count = 4096


class PageableAdamW(BitsAndBytesAdamW):
    is_paged: bool = False


class SGD(TorchOptimizer):
    momentum: NotNegative = 0
    dampening: float = 0
    nesterov: bool = False
    fused: bool | None = None


class Adagrad(TorchOptimizer):
    lr_decay: NotNegative = 0
    initial_accumulator_value: NotNegative = 0
    eps: NotNegative = 1e-10
    fused: bool | None = None


class RMSprop(TorchOptimizer):
    alpha: NotNegative = 0.99
    eps: NotNegative = 1e-8
    momentum: NotNegative = 0
    centered: bool = False
    capturable: bool = False


class Adafactor(Section):
    """`learning_rate` decides the step: what would have it found by itself is refused."""

    eps: Annotated[tuple[Positive, Positive], Field(strict=False)] = (1e-30, 1e-3)
    clip_threshold: Positive = 1.0
    decay_rate: Annotated[float, Field(le=0)] = -0.8
    beta1: Share | None = None
    scale_parameter: bool = False
    relative_step: Annotated[Literal[False], OnlyFalse] = False
    warmup_init: Annotated[Literal[False], OnlyFalse] = False


OPTIMIZERS: Mapping[str, type[Section]] = {
    "adamw_torch": TorchAdamW,
    "adamw_torch_fused": FusedAdamW,
    "adamw_8bit": PageableAdamW,
    "adamw_bnb_8bit": PageableAdamW,
    "paged_adamw_8bit": BitsAndBytesAdamW,
    "sgd": SGD,
    "adafactor": Adafactor,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
}
"""optim -> what optim_args may hold."""

OWN_KEYS: Mapping[str, str] = {
    "lr": "learning_rate",
    "betas": "adam_beta1 and adam_beta2",
    "eps": "adam_epsilon",
    "weight_decay": "weight_decay",
}
"""Options that are keys of training_args themselves, which decide."""


def schedule_options(section: Schedule) -> dict[str, Any]:
    """Every option of the schedule, with its value; null ones are left to those that are set."""
    given = section.lr_scheduler_kwargs or {}
    return _all(SCHEDULES[section.lr_scheduler_type].model_validate(given))


def optimizer_options(section: Optimizer) -> dict[str, Any]:
    """Every option of the optimizer that is no key of its own, with its value; null: the library's choice."""
    return _all(OPTIMIZERS[section.optim].model_validate(section.options))


def _all(options: Section) -> dict[str, Any]:
    return options.model_dump(exclude_none=True)


def check_options(draft: Draft) -> None:
    """Note what is wrong in `lr_scheduler_kwargs` and `optim_args`, at its place."""
    kind = _choice(draft, "lr_scheduler_type", Schedule, SCHEDULES)
    path: KeyPath = ("training_args", "lr_scheduler_kwargs")
    given = draft.get(path)
    if kind is not None and isinstance(given, dict):
        for name, what in _mistakes(SCHEDULES[kind], kind, given):
            draft.refuse((*path, name), what, value=name in SCHEDULES[kind].model_fields)
    _check_optimizer(draft)
    _doubt_schedule(draft, given if isinstance(given, dict) else {})


def _doubt_schedule(draft: Draft, given: Mapping[str, Any]) -> None:
    """Warn of a rate that does not fall, and of a warm-up that does not end."""
    rate = _number(draft, "learning_rate", Optimizer)
    path: KeyPath = ("training_args", "lr_scheduler_kwargs")
    for name, limit, what in (
        ("min_lr", rate, f"is above learning_rate ({rate:g}): the rate rises to it, and never falls"),
        ("min_lr_rate", 1, "is above 1: the rate rises over learning_rate, and never falls"),
        ("min_lr_ratio", 1, "is above 1: the rate rises over learning_rate, and never falls"),
    ):
        value = given.get(name)
        if isinstance(value, int | float) and value > limit:
            draft.warn((*path, name), what)
    warmup, steps = _number(draft, "warmup_steps", Schedule), _number(draft, "max_steps", Schedule)
    if warmup >= 1 and 0 < steps <= warmup:
        draft.warn(("training_args", "warmup_steps"), f"{unfinished_warmup(int(steps))} (max_steps)")


def unfinished_warmup(steps: int) -> str:
    """What it means for a run of `steps` steps to end within its warm-up."""
    return f"the run ends before its warm-up does: learning_rate is never reached in {steps} steps"


def _number(draft: Draft, key: str, owner: type[Section]) -> float:
    """A number in training_args; its default where what stands there is none, which is told elsewhere."""
    value = draft.get(("training_args", key))
    return value if isinstance(value, int | float) else float(owner.model_fields[key].default)


def _check_optimizer(draft: Draft) -> None:
    kind = _choice(draft, "optim", Optimizer, OPTIMIZERS)
    path: KeyPath = ("training_args", "optim_args")
    text = draft.get(path)
    if kind is None or not isinstance(text, str):
        return
    try:
        given = split_options(text)
    except ValueError:
        return  # told as the value that it is
    masters = draft.get(("run", "master_weights"), "float32")
    section = OPTIMIZERS[kind] if masters == "float32" else NoOptions
    kind = kind if masters == "float32" else f"{kind} with run.master_weights"
    for name, what in _mistakes(section, kind, given):
        draft.refuse(path, what if what.startswith(kind) else f"{name}: {what}", value=True)


def _choice(draft: Draft, key: str, owner: type[Section], known: Mapping[str, object]) -> str | None:
    """What is chosen, or None where that is no choice at all: it is told elsewhere."""
    value = draft.get(("training_args", key), owner.model_fields[key].default)
    return value if isinstance(value, str) and value in known else None


def _mistakes(section: type[Section], kind: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(option, what is wrong with it); one that is missing is told by whoever knows why it is needed."""
    unknown = [name for name in given if name not in section.model_fields]
    yield from ((str(name), _no_such(section, kind, str(name))) for name in unknown)
    try:
        section.model_validate({name: value for name, value in given.items() if name not in unknown})
    except ValidationError as error:
        wrong: dict[str, list[Any]] = {}
        for detail in error.errors(include_url=False):
            if detail["type"] != "missing":
                wrong.setdefault(str(detail["loc"][0]), []).append(detail)
        yield from ((name, wrong_value(given[name], details)) for name, details in wrong.items())


def _no_such(section: type[Section], kind: str, name: str) -> str:
    known = list(section.model_fields)
    if name in OWN_KEYS:
        return f"{kind} takes {name} from training_args.{OWN_KEYS[name]}; set it there"
    offer = f"it has {', '.join(known)}" if known else "it has none"
    if close := closest(name, known):
        offer = f"did you mean {close}?"
    return f"{kind} has no option {name}; {offer}"
