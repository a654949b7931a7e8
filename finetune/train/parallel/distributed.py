"""Where a run computes: device, precision and, per back end, one function that gates, clips and steps.

Today that is one process on one device; the loop is written for many (see ARCHITECTURE.md).
"""

import math
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from finetune import log
from finetune.config.arguments import Placement
from finetune.errors import ModelError


@dataclass(frozen=True, slots=True)
class Update:
    """What became of one optimizer step: the gradient's norm before clipping, and whether it was taken."""

    grad_norm: float
    applied: bool


def open_accelerator(section: Placement, *, trackers: Sequence[str], folder: Path) -> Accelerator:
    """The accelerator of this process. Precision is the model's own business: see `autocast_dtype`."""
    if section.deepspeed is not None:
        log.info("deepspeed: one process has nothing to shard; training without DeepSpeed, to the same numbers")
    if section.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = section.tf32
        torch.backends.cudnn.allow_tf32 = section.tf32
    return Accelerator(cpu=section.use_cpu, log_with=list(trackers) or None, project_dir=folder)


def update(
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    *,
    loss: float,
    max_grad_norm: float,
) -> Update:
    """Take the step if loss and gradient are finite; clear the gradients either way.

    The gate stands before the update: one NaN would otherwise reach every weight through the optimizer.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    grad_norm = float(norm)
    applied = math.isfinite(loss) and math.isfinite(grad_norm)
    if applied:
        if max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
        optimizer.step()
        schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return Update(grad_norm, applied)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn what torch says when memory runs out into a ModelError with the ways out."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ModelError(
            "out of memory: lower run.tokens_per_micro_batch or "
            "max_input_length, or set training_args.gradient_checkpointing or model_config.quantization "
            f"({str(error).strip().splitlines()[0]})"
        ) from error


def peak_memory(device: torch.device) -> int:
    """The most memory this process has held, in bytes: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
