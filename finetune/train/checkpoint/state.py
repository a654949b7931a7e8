"""Everything a training needs to go on exactly, by parameter name and free of the number of processes.

    training_state.safetensors   trainable/<parameter>   optimizer/<parameter>/<key>   rng/<rank>/<generator>
    training_state.json          step, schedule, optimizer groups and scalars, counters, best

Nothing is pickled and nothing unpickled. The data position is the step: the plan is a pure function of it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from finetune.errors import CheckpointError, ResumeMismatchError

TENSORS_FILE = "training_state.safetensors"
SCALARS_FILE = "training_state.json"
SHARD_BYTES = 4_000_000_000
"""Tensors from a GPU are copied before they are written: this bounds the copies."""

_OF_THE_DEVICE = {"foreach", "fused", "capturable", "differentiable"}
"""Optimizer settings that say how a step is computed here, not what it is: never taken from a checkpoint."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far."""

    checkpoint: str
    """Folder name."""
    metric: str
    value: float


@dataclass(slots=True)
class OptimizerState:
    """An optimizer's memory by parameter name."""

    tensors: dict[str, dict[str, Tensor]]
    """Parameter -> key (exp_avg, momentum_buffer, state1 …) -> tensor."""
    scalars: dict[str, dict[str, Any]]
    """Parameter -> key -> number; what some optimizers keep outside tensors."""
    groups: list[dict[str, Any]]
    """Hyperparameters of each group, with its parameters' names under `parameters`."""


@dataclass(slots=True)
class TrainState:
    """A training between two steps. Tensors may be the live ones: it is written at once or not kept."""

    step: int
    """Optimizer steps finished."""
    trainable: dict[str, Tensor]
    optimizer: OptimizerState
    schedule: dict[str, Any]
    rng: dict[str, Tensor]
    """`<rank>/<generator>` -> uint8 tensor."""
    counters: dict[str, Any] = field(default_factory=dict)
    """Whatever the loop adds up: tokens seen, seconds, steps skipped."""
    best: Best | None = None

    @property
    def bytes(self) -> int:
        """Size of all tensors together."""
        return sum(tensor.nbytes for tensor in _named_tensors(self).values())


def describe_optimizer(optimizer: Optimizer, named_parameters: Mapping[str, Tensor]) -> OptimizerState:
    """Take an optimizer's memory apart by parameter name. Works for any that keeps tensors and plain values."""
    state = OptimizerState({}, {}, [])
    for name, parameter in named_parameters.items():
        kept = optimizer.state.get(parameter, {})
        state.tensors[name] = {key: value for key, value in kept.items() if isinstance(value, Tensor)}
        state.scalars[name] = {key: value for key, value in kept.items() if not isinstance(value, Tensor)}
    names = {id(parameter): name for name, parameter in named_parameters.items()}
    for group in optimizer.param_groups:
        settings = {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
        state.groups.append({**settings, "parameters": [names[id(parameter)] for parameter in group["params"]]})
    return state


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def describe_schedule(schedule: LRScheduler) -> dict[str, Any]:
    """A schedule's position as JSON."""
    return {key: _plain(value) for key, value in schedule.state_dict().items()}


def write_state(folder: Path, state: TrainState) -> None:
    """Write both files. The bytes depend on the state alone."""
    for index, shard in enumerate(_shards(_named_tensors(state))):
        name = TENSORS_FILE if index == 0 else TENSORS_FILE.replace(".", f"-{index + 1:05}.")
        save_file(_disjoint(shard), folder / name, metadata={"format": "pt"})
    scalars = {
        "step": state.step,
        "schedule": state.schedule,
        "optimizer": {"groups": state.optimizer.groups, "scalars": state.optimizer.scalars},
        "counters": state.counters,
        "best": asdict(state.best) if state.best else None,
    }
    (folder / SCALARS_FILE).write_text(
        json.dumps(scalars, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _named_tensors(state: TrainState) -> dict[str, Tensor]:
    return {
        **{f"trainable/{name}": tensor.detach() for name, tensor in state.trainable.items()},
        **{
            f"optimizer/{name}/{key}": tensor
            for name, tensors in state.optimizer.tensors.items()
            for key, tensor in tensors.items()
        },
        **{f"rng/{name}": tensor for name, tensor in state.rng.items()},
    }


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _disjoint(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory (8-bit optimizers share their quantization tables)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    return result


def read_state(checkpoint: Path) -> TrainState:
    """Read what `write_state` wrote, on the CPU. Raises CheckpointError where the checkpoint holds no state.

    Verify the checkpoint first: nothing here notices a flipped byte.
    """
    if not (checkpoint / SCALARS_FILE).exists():
        raise CheckpointError(f"{checkpoint}: holds a model but no training state (save_only_model: true)")
    scalars = json.loads((checkpoint / SCALARS_FILE).read_text(encoding="utf-8"))
    state = TrainState(
        step=scalars["step"],
        trainable={},
        optimizer=OptimizerState({}, scalars["optimizer"]["scalars"], scalars["optimizer"]["groups"]),
        schedule=scalars["schedule"],
        rng={},
        counters=scalars["counters"],
        best=Best(**scalars["best"]) if scalars["best"] else None,
    )
    state.optimizer.tensors = {name: {} for name in scalars["optimizer"]["scalars"]}
    for path in sorted(checkpoint.glob(TENSORS_FILE.replace(".", "*."))):
        for name, tensor in load_file(path).items():
            _place(state, name, tensor)
    return state


def _place(state: TrainState, name: str, tensor: Tensor) -> None:
    kind, _, rest = name.partition("/")
    match kind:
        case "trainable":
            state.trainable[rest] = tensor
        case "optimizer":
            parameter, _, key = rest.rpartition("/")
            state.optimizer.tensors[parameter][key] = tensor
        case "rng":
            state.rng[rest] = tensor


def apply_parameters(state: TrainState, named_parameters: Mapping[str, Tensor]) -> None:
    """Copy the saved values into the live parameters.

    Raises ResumeMismatchError naming those that are missing, left over or of another shape or dtype.
    """
    saved, live = state.trainable, named_parameters
    problems = [f"{name}: in the checkpoint, not in the model" for name in saved if name not in live]
    problems += [f"{name}: in the model, not in the checkpoint" for name in live if name not in saved]
    problems += [
        f"{name}: {_shape(saved[name])} in the checkpoint, {_shape(live[name])} in the model"
        for name in saved
        if name in live and _shape(saved[name]) != _shape(live[name])
    ]
    if problems:
        raise ResumeMismatchError(_listed("the checkpoint's parameters are not the model's:", problems))
    with torch.no_grad():
        for name, parameter in live.items():
            parameter.copy_(saved[name])


def _shape(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _listed(heading: str, lines: list[str], most: int = 8) -> str:
    rest = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return "\n  ".join([heading, *lines[:most], *rest])


def apply_optimizer(
    saved: OptimizerState, optimizer: Optimizer, named_parameters: Mapping[str, Tensor]
) -> None:
    """Give an optimizer the saved memory and hyperparameters, each tensor in the dtype it was saved in.

    Not through `load_state_dict`, which casts to the parameter's dtype and goes by position.
    Raises ResumeMismatchError where the groups hold other parameters.
    """
    live = describe_optimizer(optimizer, named_parameters).groups
    if [sorted(group["parameters"]) for group in live] != [sorted(g["parameters"]) for g in saved.groups]:
        raise ResumeMismatchError("the checkpoint's optimizer groups hold other parameters than this run's")
    for group, settings in zip(optimizer.param_groups, saved.groups, strict=True):
        _apply_settings(group, settings)
        for name in settings["parameters"]:
            _apply_memory(saved, name, named_parameters[name], optimizer, group)


def _apply_settings(group: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if key == "parameters" or key in _OF_THE_DEVICE:
            continue
        if isinstance(group.get(key), Tensor):
            group[key].fill_(value)
        else:
            group[key] = tuple(value) if isinstance(value, list) else value


def _apply_memory(
    saved: OptimizerState, name: str, parameter: Tensor, optimizer: Optimizer, group: Mapping[str, Any]
) -> None:
    memory: dict[str, Any] = dict(saved.scalars.get(name, {}))
    for key, tensor in saved.tensors.get(name, {}).items():
        # torch counts steps on the CPU unless its kernel counts them itself
        on_host = key == "step" and not (group.get("fused") or group.get("capturable"))
        # cloned: the tensor is a view of the file
        memory[key] = tensor.clone() if on_host else tensor.to(parameter.device, copy=True)
    if memory:
        optimizer.state[parameter] = memory


def apply_schedule(state: TrainState, schedule: LRScheduler, optimizer: Optimizer) -> None:
    """Put the schedule where it was.

    A schedule made for more steps than the checkpoint's gives its own rate from the very next step on.
    """
    schedule.load_state_dict(state.schedule)
    if isinstance(schedule, LambdaLR):
        rates = [
            base * factor(schedule.last_epoch)
            for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            _apply_settings(group, {"lr": rate})
        schedule._last_lr = rates
