"""How fast this processor multiplies 16-bit matrices, compared with float32: a few products, timed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune.estimate.processor import Processor, keep, kept

_ROWS, _WIDTH = 128, 512
_ROUNDS = 8


def known_processor() -> Processor:
    """The figures of this machine as they were kept, else measured now in a fraction of a second."""
    found = kept()
    if found is None:
        found = Processor(measure_slowdown())
        keep(found)
    return found


def measure_slowdown() -> dict[str, float]:
    """How many times longer a product takes in bfloat16 and float16 than in float32, on the CPU.

    By one thread and in a processor's time, the best of several rounds in turns: several threads wait for each
    other where the machine has other work, and a small product then takes as long in every dtype.
    """
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    pairs = {
        name: (torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype))
        for name, dtype in dtypes.items()
    }
    best = dict.fromkeys(pairs, float("inf"))
    with _one_thread():
        for _ in range(_ROUNDS + 1):  # the first only chooses and compiles kernels
            for name, (rows, weight) in pairs.items():
                best[name] = min(best[name], _seconds(rows, weight))
    return {name: round(best[name] / best["F32"], 2) for name in ("BF16", "F16")}


@torch.no_grad()
def _seconds(rows: torch.Tensor, weight: torch.Tensor) -> float:
    started = time.thread_time()
    torch.nn.functional.linear(rows, weight)
    return time.thread_time() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
