"""Who holds what a checkpoint is made of: every process all of it, or each a part; the names are the same.

save      holder → TrainState      by parameter name, whole
resume    TrainState → holder      whatever kind of holder saved it
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from finetune.errors import ResumeMismatchError
from finetune.printing import Lines
from finetune.train.checkpoint.state import OptimizerState, Parts, TrainState, put_together

_OF_THE_DEVICE = {"foreach", "fused", "capturable", "differentiable"}
"""Optimizer settings that say how a step is computed here, not what it is: never taken from a checkpoint."""


class Holder(Protocol):
    """Trainable parameters and the optimizer's memory of them. All processes of a run call the same methods."""

    def parameters(self) -> Mapping[str, Tensor | Parts]:
        """What learns, by name."""
        ...

    def memory(self) -> OptimizerState:
        """The optimizer's memory by parameter name."""
        ...

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Put whole values into parameters, by name; every process is given the same."""
        ...

    def write_memory(self, saved: OptimizerState) -> None:
        """Give the optimizer a saved memory and its hyperparameters.

        Raises ResumeMismatchError where the groups hold other parameters.
        """
        ...


class WholeHolder:
    """Everything lies in this process, as torch keeps it."""

    def __init__(self, parameters: Mapping[str, Tensor], optimizer: Optimizer) -> None:
        self._parameters, self._optimizer = parameters, optimizer

    def parameters(self) -> Mapping[str, Tensor | Parts]:
        return self._parameters

    def memory(self) -> OptimizerState:
        state = OptimizerState({}, {}, describe_groups(self._optimizer, self._parameters))
        for name, parameter in self._parameters.items():
            kept = self._optimizer.state.get(parameter, {})
            state.tensors[name] = {key: value for key, value in kept.items() if isinstance(value, Tensor)}
            state.scalars[name] = {key: value for key, value in kept.items() if not isinstance(value, Tensor)}
        return state

    @torch.no_grad()
    def write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._parameters[name].copy_(value)

    def write_memory(self, saved: OptimizerState) -> None:
        """Each tensor in the dtype it was saved in.

        Not through `load_state_dict`, which casts to the parameter's dtype and goes by position.
        """
        apply_groups(saved, self._optimizer, self._parameters)
        for group, settings in zip(self._optimizer.param_groups, saved.groups, strict=True):
            for name in settings["parameters"]:
                memory = self._memory_of(saved, name, group)
                if memory:
                    self._optimizer.state[self._parameters[name]] = memory

    def _memory_of(self, saved: OptimizerState, name: str, group: Mapping[str, Any]) -> dict[str, Any]:
        memory: dict[str, Any] = dict(saved.scalars.get(name, {}))
        for key, stored in saved.tensors.get(name, {}).items():
            tensor = put_together(stored)
            # cloned: the tensor is a view of the file
            on_host = key == "step" and counts_on_host(group)
            memory[key] = tensor.clone() if on_host else tensor.to(self._parameters[name].device, copy=True)
        return memory


def counts_on_host(group: Mapping[str, Any]) -> bool:
    """torch counts steps on the CPU unless its kernel counts them itself."""
    return not (group.get("fused") or group.get("capturable"))


def describe_groups(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """An optimizer's groups: hyperparameters, and the names of the parameters they hold for."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    return [
        {**settings_of(group), "parameters": [names[id(parameter)] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """A group's hyperparameters as plain values."""
    return {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


def apply_groups(saved: OptimizerState, optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> None:
    """Give each group its saved hyperparameters. Raises ResumeMismatchError where it holds other parameters."""
    require_same_groups(describe_groups(optimizer, parameters), saved.groups)
    for group, settings in zip(optimizer.param_groups, saved.groups, strict=True):
        apply_settings(group, settings)


def require_same_groups(live: list[dict[str, Any]], saved: list[dict[str, Any]]) -> None:
    """Raises ResumeMismatchError where two descriptions of groups hold other parameters."""
    if [sorted(group["parameters"]) for group in live] != [sorted(group["parameters"]) for group in saved]:
        raise ResumeMismatchError("the checkpoint's optimizer groups hold other parameters than this run's")


def apply_settings(group: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set a group's hyperparameters, but for those that say how this machine computes."""
    for key, value in settings.items():
        if key == "parameters" or key in _OF_THE_DEVICE:
            continue
        if isinstance(group.get(key), Tensor):
            group[key].fill_(value)
        else:
            group[key] = tuple(value) if isinstance(value, list) else value


def check_parameters(
    saved: Mapping[str, Tensor | Parts], live: Mapping[str, Tensor | Parts]
) -> dict[str, Tensor]:
    """The saved values, which are those of the live parameters: same names, shapes and dtypes.

    Raises ResumeMismatchError naming those that are missing, left over or of another shape or dtype.
    """
    problems = [f"{name}: in the checkpoint, not in the model" for name in saved if name not in live]
    problems += [f"{name}: in the model, not in the checkpoint" for name in live if name not in saved]
    problems += [
        f"{name}: {_shape(saved[name])} in the checkpoint, {_shape(live[name])} in the model"
        for name in saved
        if name in live and _shape(saved[name]) != _shape(live[name])
    ]
    if problems:
        raise ResumeMismatchError(_listed("the checkpoint's parameters are not the model's:", problems))
    return {name: put_together(tensor) for name, tensor in saved.items()}


def _shape(tensor: Tensor | Parts) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _listed(heading: str, lines: list[str], most: int = 8) -> str:
    rest = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return Lines([heading, *(f"  {line}" for line in [*lines[:most], *rest])])


def describe_schedule(schedule: LRScheduler) -> dict[str, Any]:
    """A schedule's position as JSON."""
    return {key: _plain(value) for key, value in schedule.state_dict().items()}


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
            apply_settings(group, {"lr": rate})
        schedule._last_lr = rates
