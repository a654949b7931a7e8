"""FSDP2: every process keeps a share of every parameter, and gathers a layer while it computes it."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune import world
from finetune.model.batch import Batch
from finetune.model.head import SupervisedLoss
from finetune.model.tuned import Tuned
from finetune.train.checkpoint.holder import apply_groups, counts_on_host, describe_groups
from finetune.train.checkpoint.state import OptimizerState, Parts, put_together
from finetune.train.parallel.back_end import Update, apply_if_finite
from finetune.train.parallel.layers import layers_of, set_dtypes


def shard(
    tuned: Tuned,
    device: torch.device,
    *,
    layer_classes: Sequence[str] = (),
    reshard_after_forward: bool = True,
    cpu_offload: bool = False,
) -> None:
    """Take the model apart, layer by layer, so that no process ever holds more than one layer of its own copy.

    A prefix's encoder is taken apart by itself: it runs outside the base model's forward.
    """
    mesh = init_device_mesh(device.type, (world.world_size(),))
    # Pinned memory belongs to an accelerator.
    policy = CPUOffloadPolicy(pin_memory=device.type != "cpu") if cpu_offload else OffloadPolicy()
    for part in layers_of(tuned, layer_classes):
        set_dtypes(part, trainable=torch.float32, frozen=tuned.base_dtype)
        fully_shard(part, mesh=mesh, reshard_after_forward=reshard_after_forward, offload_policy=policy)


class FullySharded:
    """A BackEnd, over a model that `shard` has taken apart."""

    name = "fsdp2"
    lockstep = True
    shares = True

    def __init__(
        self,
        objective: SupervisedLoss,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.holder = _ShareHolder(parameters, optimizer)
        self._objective, self._parameters, self._optimizer = objective, parameters, optimizer

    def accumulate(self, batch: Batch, scale: float, *, last: bool) -> Tensor:
        # Every backward exchanges: gradients kept whole until the last one would take back what sharding saves.
        summed: Tensor = self._objective(batch)
        (summed * (scale * world.world_size())).backward()  # FSDP averages
        return summed.detach()

    def update(self, *, loss: float, max_grad_norm: float) -> Update:
        parameters = list(self._parameters.values())
        return apply_if_finite(parameters, self._optimizer, loss=loss, max_grad_norm=max_grad_norm)

    def gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        for name, parameter in self._parameters.items():
            yield name, None if parameter.grad is None else _local(parameter.grad)

    def held(self, parameter: nn.Parameter) -> Tensor:
        return _local(parameter.detach())

    def whole(self, parameter: nn.Parameter) -> Tensor | Parts:
        return _parts(parameter.detach())


class _ShareHolder:
    """Parameters and optimizer memory as DTensors."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self._parameters, self._optimizer = parameters, optimizer

    def parameters(self) -> Mapping[str, Tensor | Parts]:
        return {name: _parts(parameter.detach()) for name, parameter in self._parameters.items()}

    def memory(self) -> OptimizerState:
        state = OptimizerState({}, {}, describe_groups(self._optimizer, self._parameters))
        for name, parameter in self._parameters.items():
            kept = self._optimizer.state.get(parameter, {})
            state.tensors[name] = {key: _parts(value) for key, value in kept.items()}
            state.scalars[name] = {}
        return state

    @torch.no_grad()
    def write(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            parameter = self._parameters[name]
            _local(parameter).copy_(_local(_distribute(value, parameter)))

    def write_memory(self, saved: OptimizerState) -> None:
        apply_groups(saved, self._optimizer, self._parameters)
        for group, settings in zip(self._optimizer.param_groups, saved.groups, strict=True):
            for name in settings["parameters"]:
                parameter, memory = self._parameters[name], {}
                for key, stored in saved.tensors.get(name, {}).items():
                    tensor = put_together(stored)
                    if tensor.shape == parameter.shape:
                        memory[key] = _distribute(tensor, parameter)
                    else:  # the count of steps
                        on_host = counts_on_host(group)
                        memory[key] = tensor.to("cpu" if on_host else _local(parameter).device, copy=True)
                if memory:
                    self._optimizer.state[parameter] = memory


def _parts(tensor: Tensor) -> Tensor | Parts:
    if not isinstance(tensor, DTensor):
        return tensor
    return Parts(tensor.shape, tensor.dtype, lambda: tensor.full_tensor().cpu())


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _distribute(whole: Tensor, like: Tensor) -> Tensor:
    """This process's share of a tensor that every process has, cut as `like` is. Nothing is sent."""
    assert isinstance(like, DTensor)
    share = distribute_tensor(
        whole.to(_local(like).device), like.device_mesh, like.placements, src_data_rank=None
    )
    # A share may be a view of the file it was read from.
    return share.clone()
