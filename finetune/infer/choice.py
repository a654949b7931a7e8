"""Which token comes next: transformers' own rules, and random numbers that belong to the answer.

The number for a token is computed from (seed, conversation, turn, position) by a counter-based generator
(Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). No state goes from one token to
the next, so neither the batch size nor the place where a stopped run goes on can change what is drawn.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from finetune.data.encode import Prompt
from finetune.infer.engine import AnswerNumber, Sampling


class Choice:
    """Chooses for rows of several prompts at once. What is drawn for a row depends on its number alone."""

    def __init__(self, sampling: Sampling) -> None:
        self.penalty = sampling.repetition_penalty
        self.rules = _rules(sampling)
        self.seed = sampling.seed if sampling.do_sample else None

    @property
    def is_plain(self) -> bool:
        """Whether it takes the likeliest token of the logits as they are."""
        return self.seed is None and self.penalty == 1.0

    def choose(
        self,
        logits: torch.Tensor,
        numbers: Sequence[AnswerNumber],
        texts: Sequence[tuple[list[int], list[int]]],
    ) -> list[int]:
        """The next token of each row. logits (B, V); `texts`: the prompt of each, and what is written to it."""
        scores = logits.float()
        if self.penalty != 1.0:
            penalize = RepetitionPenaltyLogitsProcessor(self.penalty)
            scores = penalize(_side_by_side(texts).to(scores.device), scores)
        if self.seed is None:
            return scores.argmax(dim=-1).tolist()
        for rule in self.rules:
            scores = rule(torch.empty(0), scores)
        positions = [len(written) for _, written in texts]
        pairs = zip(numbers, positions, strict=True)
        drawn = torch.tensor([random_number(self.seed, *pair) for pair in pairs], dtype=torch.float64)
        return _token_at(scores, drawn.to(scores.device)).tolist()


class Chosen(LogitsProcessor):
    """Has transformers' greedy search write what `Choice` chooses: no other token stays possible.

    columns: how many of the columns that the search has are not new.
    """

    def __init__(
        self, choice: Choice, prompts: Sequence[Prompt], numbers: Sequence[AnswerNumber], columns: int
    ) -> None:
        self.choice, self.prompts, self.numbers, self.columns = choice, prompts, numbers, columns

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        written = input_ids[:, self.columns :].tolist()
        texts = [(prompt.ids, row) for prompt, row in zip(self.prompts, written, strict=True)]
        tokens = torch.tensor(self.choice.choose(scores, self.numbers, texts), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


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


def random_bits(seed: int, number: AnswerNumber, position: int) -> int:
    """64 random bits for the token at `position` of an answer."""
    counter = [position, number.turn, number.conversation, 0]
    return int(np.random.Philox(key=[seed, 0], counter=counter).random_raw())


def random_number(seed: int, number: AnswerNumber, position: int) -> float:
    """From [0, 1), in steps of 2^-53."""
    return (random_bits(seed, number, position) >> 11) * 2.0**-53


def _token_at(scores: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Where a row's number falls when tokens stand side by side, as wide as they are likely: (B,) int64."""
    ends = scores.softmax(dim=-1).double().cumsum(dim=-1)
    # `right`: a token of no width is never hit. Sums end a little beside 1, so numbers are stretched to them.
    found = torch.searchsorted(ends, drawn[:, None] * ends[:, -1:], right=True)
    return found[:, 0].clamp(max=scores.shape[1] - 1)


def _side_by_side(texts: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """All tokens of each row, (B, longest) int64, filled with a token it has: one that counts already."""
    rows = [prompt + written for prompt, written in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + row[:1] * (longest - len(row)) for row in rows])
