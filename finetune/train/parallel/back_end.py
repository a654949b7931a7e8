"""What the loop asks of whoever holds the weights: one process, copies (DDP) or shares (FSDP2, ZeRO).

    accumulate   forward and backward of one micro-batch
    update       gate, clip and step

However many processes there are, the gradient is the sum over all of them: the loop divides by the weight of
the whole step, and what averages is told the number of processes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from finetune.model.batch import Batch
from finetune.train.checkpoint.holder import Holder
from finetune.train.checkpoint.state import Parts
from finetune.train.masters import NarrowAdamW


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one optimizer step: the gradient's norm before clipping, and whether it was taken."""

    grad_norm: float
    applied: bool


class BackEnd(Protocol):
    """How the processes of a run share model, gradient and optimizer. All of them call the same methods."""

    @property
    def name(self) -> str:
        """`one process`, `ddp`, `fsdp2` or `zero-<stage>`."""
        ...

    @property
    def lockstep(self) -> bool:
        """Whether a forward needs every process, so that all must run the same number of them."""
        ...

    @property
    def shares(self) -> bool:
        """Whether a process holds less than everything of model or optimizer."""
        ...

    @property
    def holder(self) -> Holder:
        """Trainable parameters and optimizer, for checkpoints."""
        ...

    def accumulate(self, batch: Batch, scale: float, *, last: bool) -> Tensor:
        """Add the gradient of `scale` times the batch's summed loss; returns that sum, without a graph.

        `last`: of this step. Gradients are then those of all processes together.
        """
        ...

    def update(self, *, loss: float, max_grad_norm: float) -> Update:
        """Take the step if loss and gradient are finite; clear the gradients either way."""
        ...

    def gradients(self) -> Iterator[tuple[str, Tensor | None]]:
        """Of each trainable parameter what this process has of its gradient, before `update`."""
        ...

    def held(self, parameter: nn.Parameter) -> Tensor:
        """What this process keeps of a parameter."""
        ...

    def whole(self, parameter: nn.Parameter) -> Tensor | Parts:
        """A parameter as it would be without shares."""
        ...


def apply_if_finite(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, *, loss: float, max_grad_norm: float
) -> Update:
    """Gate, clip and step of an optimizer of torch, on whole parameters or on shares of them (DTensor).

    The gate stands before the update: one NaN would otherwise reach every weight through the optimizer.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = _total_norm(gradients)
    grad_norm = float(_whole(norm))
    applied = math.isfinite(loss) and math.isfinite(grad_norm)
    if applied:
        if max_grad_norm > 0 and isinstance(optimizer, NarrowAdamW):
            optimizer.gradient_scale = min(1.0, max_grad_norm / (grad_norm + 1e-6))
        elif max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Update(grad_norm, applied)


def _total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Over all gradients; in float32, which torch's own takes no care of where gradients are narrower."""
    if all(gradient.dtype == torch.float32 for gradient in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))


def _whole(norm: Tensor) -> Tensor:
    """A norm over shares is itself in shares until it is asked for."""
    from torch.distributed.tensor import DTensor

    return norm.full_tensor() if isinstance(norm, DTensor) else norm
