"""The whole model in every process: alone, or with torch's DistributedDataParallel."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finetune import world
from finetune.config.arguments import Placement
from finetune.model.batch import Batch
from finetune.model.head import SupervisedLoss
from finetune.train.checkpoint.holder import Holder, WholeHolder
from finetune.train.checkpoint.state import Parts
from finetune.train.masters import NarrowAdamW
from finetune.train.parallel.back_end import Update, apply_if_finite


class Replicated:
    """A BackEnd. Processes may run different numbers of forwards; the last backward exchanges gradients."""

    lockstep = False
    shares = False

    def __init__(
        self,
        objective: SupervisedLoss,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        section: Placement,
    ) -> None:
        self.name = "one process" if world.world_size() == 1 else "ddp"
        self.holder: Holder = WholeHolder(parameters, optimizer)
        self._parameters, self._optimizer = parameters, optimizer
        self._module = objective if world.world_size() == 1 else _distributed(objective, section)

    def accumulate(self, batch: Batch, scale: float, *, last: bool) -> Tensor:
        if isinstance(self._optimizer, NarrowAdamW) and not self._optimizer.has_gradients:
            # A sum of several gradients needs more bits than each of them.
            self._optimizer.add_gradients_in(torch.bfloat16 if last else torch.float32)
        with self._exchanging(last):
            summed: Tensor = self._module(batch)
            (summed * (scale * world.world_size())).backward()  # DDP averages
        return summed.detach()

    def update(self, *, loss: float, max_grad_norm: float) -> Update:
        parameters = list(self._parameters.values())
        return apply_if_finite(parameters, self._optimizer, loss=loss, max_grad_norm=max_grad_norm)

    def gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        return ((name, parameter.grad) for name, parameter in self._parameters.items())

    def held(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach()

    def whole(self, parameter: nn.Parameter) -> Tensor | Parts:
        return parameter.detach()

    def _exchanging(self, last: bool) -> AbstractContextManager[object]:
        if last or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()


def _distributed(objective: SupervisedLoss, section: Placement) -> DistributedDataParallel:
    """`ddp_…` keys that are not given are left to torch, but for buffers: no process changes any."""
    given = {
        "find_unused_parameters": section.ddp_find_unused_parameters,
        "bucket_cap_mb": section.ddp_bucket_cap_mb,
        "forward_sync_buffers": section.ddp_broadcast_buffers or False,
        "static_graph": section.ddp_static_graph,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return DistributedDataParallel(objective, **options)
