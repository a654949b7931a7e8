"""How much there is to compute: what the data says of the largest micro-batch, and the FLOPs of a token."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from finetune.chat.sight import Sight
from finetune.config.schema import Config
from finetune.data.examples import Examples
from finetune.data.plan import order_of
from finetune.estimate.setup import Device, Load, Setup

SPEEDS: Mapping[Device, tuple[float, float]] = {"cpu": (0.05e12, 1e12), "cuda": (50e12, 450e12)}
"""FLOP/s that one process reaches in training, on slow and on fast devices: a range, no promise."""


@dataclass(frozen=True, slots=True)
class Work:
    """What matters of a data set. `step_tokens`: the most that one process computes in one step."""

    conversations: int
    tokens: int
    longest: int
    supervised: float
    """Share of the tokens that are learnt."""
    conversation_tokens: float
    """Of an example, on average."""
    span: float
    """Of the example in which a token stands, on average over the tokens."""
    step_tokens: int
    patches_per_token: float = 0
    """Patches of pictures for each token, in the most pictorial example: what a micro-batch may be full of."""
    patches: int = 0
    """Of all different pictures."""

    @classmethod
    def of(
        cls,
        examples: Examples,
        conversations_per_step: int,
        seed: int | None,
        ranks: int,
        sight: Sight | None = None,
    ) -> Self:
        """Of encoded data, in the steps of its first epoch; `sight`: of the model, for pictures."""
        lengths = examples.lengths.astype(np.int64)
        each = np.add.reduceat(lengths, examples.first_example[:-1])
        order = order_of(len(each), seed, 0)
        steps = np.add.reduceat(each[order], np.arange(0, len(each), conversations_per_step))
        longest = int(lengths.max())
        return cls(
            conversations=len(each),
            tokens=int(lengths.sum()),
            longest=longest,
            supervised=float(examples.supervised.sum() / lengths.sum()),
            conversation_tokens=float(lengths.mean()),
            span=float((lengths * lengths).sum() / lengths.sum()),
            step_tokens=max(longest, -(-int(steps.max()) // ranks)),
            patches_per_token=0 if sight is None else float((_patches(examples, sight) / lengths).max()),
            patches=0 if sight is None else sum(_each(examples, sight)),
        )

    @classmethod
    def assumed(cls, longest: int, conversations_per_step: int, ranks: int) -> Self:
        """Without data: every conversation as long as the limits allow, half of it supervised."""
        each = -(-conversations_per_step // ranks)
        return cls(0, 0, longest, 0.5, float(longest), float(longest), each * longest)

    def in_layout_of(self, config: Config, setup: Setup) -> Self:
        """The same where conversations are computed one at a time: as asked for, or under a prompt."""
        alone = config.model.attention == "single" or setup.method.kind == "prompt"
        return replace(self, step_tokens=self.longest) if alone else self

    def load(self, budget: int) -> Load:
        """The largest micro-batch under a budget of tokens."""
        tokens = min(max(budget, self.longest), self.step_tokens)
        conversations = max(1, round(tokens / self.conversation_tokens))
        supervised = max(1, round(tokens * self.supervised))
        span, alone = min(self.span, tokens), tokens == self.step_tokens
        patches = round(tokens * self.patches_per_token)
        return Load(tokens, supervised, conversations, self.longest, span, alone, patches, self.patches)


def _patches(examples: Examples, sight: Sight) -> NDArray[np.int64]:
    """Patches of the pictures of each example, (examples,) int64."""
    album, each = examples.album, np.array(_each(examples, sight), dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(each[album.shown])])
    return np.diff(before[album.first_picture])


def _each(examples: Examples, sight: Sight) -> list[int]:
    """Patches of each different picture."""
    return [math.prod(sight.patches(width, height)) for width, height in examples.album.sizes.tolist()]


def flops_per_token(setup: Setup, work: Work) -> float:
    """Forward and backward of one token: its layers, its share of the head, its attention.

    A weight costs 2 forward and 2 for the gradient of its input; one that learns 2 more.
    """
    shape, method = setup.shape, setup.method
    layers = sum(a * b for name, (a, b) in shape.linears.items() if ".layers." in f".{name}")
    head = shape.vocabulary * shape.hidden * work.supervised
    attention = 2 * shape.layers * shape.queries * (work.conversation_tokens / 2 + method.virtual_tokens)
    whole = 6 if method.kind == "full" else 4
    again = 2 * (layers + attention) * setup.recomputed_layers / shape.layers
    return whole * (layers + head) + 6 * attention + again
