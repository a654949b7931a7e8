"""What a run proves of itself: that all meant to learn does (step 1), and that nothing else did (the end)."""

from collections.abc import Mapping

import torch

from finetune.errors import TrainingError, some_of
from finetune.model.tuning import Tuned

Fingerprints = Mapping[str, tuple[int, int]]


def check_first_gradients(tuned: Tuned) -> None:
    """Every trainable tensor has a finite gradient, and together they are not zero.

    Single tensors may be zero: LoRA's A is at step 1, because the gradient reaches it through B, which starts
    at zero. Raises TrainingError naming the tensors.
    """
    absent = [name for name, p in tuned.trainable() if p.grad is None]
    if absent:
        raise TrainingError(f"{some_of(absent)}: no gradient reached these trainable weights at step 1")
    broken = [name for name, p in tuned.trainable() if p.grad is not None and not p.grad.isfinite().all()]
    if broken:
        raise TrainingError(f"{some_of(broken)}: the gradient at step 1 is not finite")
    if not any(bool(p.grad.any()) for _, p in tuned.trainable() if p.grad is not None):
        raise TrainingError("the gradient of every trainable weight is zero at step 1: nothing would be learnt")


@torch.no_grad()
def fingerprint_frozen(tuned: Tuned) -> Fingerprints:
    """Two integer sums over the bits of every frozen weight, on its own device.

    The second is weighted by position, so that a swap shows; both wrap exactly, so the same bits always agree.
    """
    return {name: _sums(parameter.detach()) for name, parameter in tuned.frozen()}


def check_frozen(tuned: Tuned, before: Fingerprints) -> None:
    """Raises TrainingError naming the frozen weights that training changed."""
    after = fingerprint_frozen(tuned)
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        raise TrainingError(f"{some_of(changed)}: these weights are frozen, and training changed them")


def _sums(tensor: torch.Tensor, chunk: int = 1 << 24) -> tuple[int, int]:
    bits = tensor.contiguous().view(-1).view(torch.uint8).view(-1)
    words = bits[: len(bits) // 2 * 2].view(torch.int16)
    total = weighted = 0
    for piece in words.split(chunk):
        wide = piece.to(torch.int64)
        total += int(wide.sum())
        weighted = weighted * 31 + int((wide * torch.arange(1, len(wide) + 1, device=wide.device)).sum())
    return total + int(bits[len(words) * 2 :].sum()), weighted & (1 << 64) - 1
