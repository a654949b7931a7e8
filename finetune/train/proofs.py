"""What a run proves of itself: that all meant to learn does (step 1), and that nothing else did (the end)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from finetune.errors import TrainingError, some_of
from finetune.model.tuning import Tuned
from finetune.train.parallel import group

Fingerprints = Mapping[str, tuple[int, int]]
Held = Callable[[Any], torch.Tensor]


def check_first_gradients(gradients: Iterable[tuple[str, torch.Tensor | None]]) -> None:
    """Every trainable tensor has a gradient, and together they are not zero.

    Single tensors may be zero: LoRA's A is at step 1, because the gradient reaches it through B, which starts
    at zero. One that is not finite is the gate's to refuse: it knows the conversations, and `on_nonfinite`.
    Each process looks at its own part. Raises TrainingError naming the tensors.
    """
    absent, some = set(), False
    for name, gradient in gradients:  # one at a time: each may be put together for this look at it
        if gradient is None:
            absent.add(name)
        elif not some:
            some = bool(gradient.any())
    seen = group.gather((absent, some))
    if absent := set.union(*(names for names, _ in seen)):
        raise TrainingError(f"{some_of(sorted(absent))}: no gradient reached these trainable weights at step 1")
    if not any(some for _, some in seen):
        raise TrainingError("the gradient of every trainable weight is zero at step 1: nothing would be learnt")


@torch.no_grad()
def fingerprint_frozen(tuned: Tuned, held: Held = torch.Tensor.detach) -> Fingerprints:
    """Two integer sums over the bits of every frozen weight, on its own device.

    The second is weighted by position, so that a swap shows; both wrap exactly, so the same bits always agree.
    `held`: what this process has of a weight.
    """
    return {name: _sums(held(parameter)) for name, parameter in tuned.frozen()}


def check_frozen(tuned: Tuned, before: Fingerprints, held: Held = torch.Tensor.detach) -> None:
    """Raises TrainingError naming the frozen weights that training changed, in this process or another."""
    after = fingerprint_frozen(tuned, held)
    changed = group.gather([name for name in before if after.get(name) != before[name]])
    if named := list(dict.fromkeys(name for names in changed for name in names)):
        raise TrainingError(f"{some_of(named)}: these weights are frozen, and training changed them")


def _sums(tensor: torch.Tensor, chunk: int = 1 << 20) -> tuple[int, int]:
    bits = tensor.contiguous().view(-1).view(torch.uint8).view(-1)
    words = bits[: len(bits) // 2 * 2].view(torch.int16)
    total = weighted = 0
    for piece in words.split(chunk):
        wide = piece.to(torch.int64)
        total += int(wide.sum())
        weighted = weighted * 31 + int((wide * torch.arange(1, len(wide) + 1, device=wide.device)).sum())
    return total + int(bits[len(words) * 2 :].sum()), weighted & (1 << 64) - 1
