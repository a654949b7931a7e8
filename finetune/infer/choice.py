"""Which token comes next: transformers' own rules, and luck that belongs to the row."""

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from finetune.infer.engine import Sampling


class Choice:
    """Chooses for rows of several prompts at once. What is drawn for a prompt depends on its number alone."""

    def __init__(self, sampling: Sampling, prompts: int) -> None:
        self.penalty = sampling.repetition_penalty
        self.rules = _rules(sampling)
        self.luck = _luck(sampling, prompts) if sampling.do_sample else None

    def choose(
        self, logits: torch.Tensor, numbers: Sequence[int], texts: Sequence[tuple[list[int], list[int]]]
    ) -> list[int]:
        """The next token of each row. logits (B, V); `texts`: the prompt of each, and what is written to it."""
        scores = logits.float()
        if self.penalty != 1.0:
            penalize = RepetitionPenaltyLogitsProcessor(self.penalty)
            scores = penalize(_side_by_side(texts).to(scores.device), scores)
        if self.luck is None:
            return scores.argmax(dim=-1).tolist()
        for rule in self.rules:
            scores = rule(torch.empty(0), scores)
        luck = self.luck[list(numbers), [len(written) for _, written in texts]]
        return _draw(scores, luck.to(scores.device)).tolist()


def _rules(sampling: Sampling) -> list[LogitsProcessor]:
    """In transformers' order. Those that would change nothing are left out."""
    rules: list[LogitsProcessor] = []
    if sampling.temperature != 1.0:
        rules.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k > 0:
        rules.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        rules.append(TopPLogitsWarper(sampling.top_p))
    return rules


def _luck(sampling: Sampling, prompts: int) -> torch.Tensor:
    """A number from [0, 1) for every token that may be written: (prompts, max_new_tokens) float32."""
    generator = torch.Generator().manual_seed(sampling.seed)
    return torch.rand(prompts, sampling.max_new_tokens, generator=generator)


def _draw(scores: torch.Tensor, luck: torch.Tensor) -> torch.Tensor:
    """Where a row's luck falls when tokens stand side by side, as wide as they are likely: (B,) int64."""
    ends = scores.softmax(dim=-1).double().cumsum(dim=-1)
    # `right`: a token of no width is never hit. Sums end a little beside 1, so luck is stretched to them.
    found = torch.searchsorted(ends, luck.double()[:, None] * ends[:, -1:], right=True)
    return found[:, 0].clamp(max=scores.shape[1] - 1)


def _side_by_side(texts: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """All tokens of each row, (B, longest) int64, filled with a token it has: one that counts already."""
    rows = [prompt + written for prompt, written in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + row[:1] * (longest - len(row)) for row in rows])
