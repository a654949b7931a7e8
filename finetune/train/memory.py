"""When memory runs out: what was being computed, and the cheapest change that would let it fit."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from finetune import world
from finetune.errors import MemoryExhaustedError, is_out_of_memory
from finetune.estimate.machine import free_bytes
from finetune.estimate.setup import Device


@contextmanager
def memory_errors(tell: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Turn what torch or Python says when memory runs out into a MemoryExhaustedError; the innermost speaks.

    `tell` is asked then only: what was being done, and what would need less.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        doing, advice = tell()
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise MemoryExhaustedError(f"out of memory {doing}; {advice} ({reason})") from error


def peak_memory(device: torch.device) -> int:
    """The most memory this process has held, in bytes: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not the rusage: that begins with what the process held that started this one.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def kind_of(device: torch.device) -> Device:
    """As the estimate tells devices apart: by whose memory they use."""
    return "cuda" if device.type == "cuda" else "cpu"


def free_memory(device: torch.device) -> int:
    """Bytes that this process may hold on its device, with what it holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return free_bytes(world.local_world_size())
