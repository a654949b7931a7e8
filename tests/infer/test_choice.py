"""Which token comes next: luck from [0, 1) falls on tokens as wide as they are likely."""

import pytest
import torch

from finetune.infer.choice import Choice
from finetune.infer.engine import Sampling

LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(4000, 4)
ROWS = range(4000)
TEXTS: list[tuple[list[int], list[int]]] = [([0], [])] * 4000


def shares(**sampling: float) -> list[float]:
    """How often each of the four tokens was drawn."""
    choice = Choice(Sampling(max_new_tokens=1, do_sample=True, **sampling), 4000)  # type: ignore[arg-type]
    drawn = torch.tensor(choice.choose(LOGITS, ROWS, TEXTS))
    return (torch.bincount(drawn, minlength=4) / 4000).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    wanted = (LOGITS[0] / temperature).softmax(0).tolist()
    assert shares(temperature=temperature) == pytest.approx(wanted, abs=0.03)


def test_top_k_leaves_the_likeliest() -> None:
    assert shares(top_k=2) == pytest.approx([0, 0.731, 0, 0.269], abs=0.03)
    assert shares(top_k=1) == [0, 1, 0, 0]


def test_top_p_leaves_those_that_together_are_likely_enough() -> None:
    """Likely in turn: 0.644, 0.237, 0.087, 0.032."""
    assert shares(top_p=0.7) == pytest.approx([0, 0.731, 0, 0.269], abs=0.03)
    assert shares(top_p=0.6) == [0, 1, 0, 0]


def test_another_seed_draws_something_else_and_the_same_seed_the_same() -> None:
    draws = [
        Choice(Sampling(max_new_tokens=1, do_sample=True, seed=seed), 4000).choose(LOGITS, ROWS, TEXTS)
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    choice = Choice(Sampling(), 1)
    assert choice.choose(torch.tensor([[1.0, 2.0, 2.0]]), [0], [([0], [])]) == [1]


def test_what_was_said_or_asked_becomes_less_likely() -> None:
    choice = Choice(Sampling(repetition_penalty=2.0), 2)
    logits = torch.tensor([[1.0, 1.9, 1.2], [-1.0, -1.9, -1.2]])
    assert choice.choose(logits, [0, 1], [([1], []), ([2, 2, 2], [0])]) == [2, 1]
