"""What a run proves of itself: that all meant to learn does (step 1), and that nothing else did (the end)."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn.functional import pad

from finetune.errors import TrainingError, some_of
from finetune.model.tuned import Tuned
from finetune.train.parallel import group

Fingerprints = Mapping[str, tuple[int, ...]]
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
    """Integer sums over the bits of every frozen weight, on its own device: plain, and weighted by position.

    They wrap exactly, so the same bits always agree; a change shows in the first, a swap in the others.
    `held`: what this process has of a weight.
    """
    return {name: _sums(held(parameter)) for name, parameter in tuned.frozen()}


def check_frozen(tuned: Tuned, before: Fingerprints, held: Held = torch.Tensor.detach) -> None:
    """Raises TrainingError naming the frozen weights that training changed, in this process or another."""
    after = fingerprint_frozen(tuned, held)
    changed = group.gather([name for name in before if after.get(name) != before[name]])
    if named := list(dict.fromkeys(name for names in changed for name in names)):
        raise TrainingError(f"{some_of(named)}: these weights are frozen, and training changed them")


_WIDTH = 1024
_ROWS = 1024
"""Words of 64 bits that are summed at once: 8 MB of them."""


def _sums(tensor: torch.Tensor) -> tuple[int, ...]:
    """Of 64-bit words the sum, the sum weighted by position, and the same of their upper halves alone.

    A swap of two words that differ in the topmost bit wraps to nothing in the second, and shows in the third.
    """
    bits = tensor.contiguous().view(-1).view(torch.uint8)
    if bits.storage_offset() % 8:
        bits = bits.clone()
    whole = len(bits) // (8 * _WIDTH) * (8 * _WIDTH)
    rest = pad(bits[whole:], (0, 8 * _WIDTH - (len(bits) - whole)))
    sums, start = torch.zeros(3, dtype=torch.int64, device=bits.device), 0
    for piece in (*bits[:whole].view(torch.int64).view(-1, _WIDTH).split(_ROWS), rest.view(torch.int64)[None]):
        sums += torch.stack([piece.sum(), _by_position(piece, start), _by_position(piece >> 32, start)])
        start += len(piece)
    return tuple(sums.tolist())


def _by_position(words: torch.Tensor, start: int) -> torch.Tensor:
    """The sum of (R, _WIDTH) words, each times its number; `start` rows stand before them."""
    # Rows and columns apart: two sums instead of a product as large as the words.
    rows = torch.arange(start, start + len(words), device=words.device) * _WIDTH
    return (words.sum(1) * rows).sum() + (words.sum(0) * torch.arange(_WIDTH, device=words.device)).sum()
