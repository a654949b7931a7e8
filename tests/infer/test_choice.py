"""Which token comes next: a number from [0, 1) falls on tokens as wide as they are likely."""

import pytest
import torch

from finetune.infer.choice import Choice, random_bits
from finetune.infer.engine import AnswerNumber, Sampling

LOGITS = torch.tensor([[0.0, 3.0, 1.0, 2.0]]).expand(4000, 4)
ROWS = [AnswerNumber(i) for i in range(4000)]
TEXTS: list[tuple[list[int], list[int]]] = [([0], [])] * 4000


def shares(**sampling: float) -> list[float]:
    """How often each of the four tokens was drawn."""
    choice = Choice(Sampling(max_new_tokens=1, do_sample=True, **sampling))  # type: ignore[arg-type]
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
        Choice(Sampling(max_new_tokens=1, do_sample=True, seed=seed)).choose(LOGITS, ROWS, TEXTS)
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    choice = Choice(Sampling())
    assert choice.choose(torch.tensor([[1.0, 2.0, 2.0]]), ROWS[:1], [([0], [])]) == [1]


def test_what_was_said_or_asked_becomes_less_likely() -> None:
    choice = Choice(Sampling(repetition_penalty=2.0))
    logits = torch.tensor([[1.0, 1.9, 1.2], [-1.0, -1.9, -1.2]])
    assert choice.choose(logits, ROWS[:2], [([1], []), ([2, 2, 2], [0])]) == [2, 1]


def test_the_bits_of_a_token_are_those_of_the_published_generator() -> None:
    """A seed means the same tomorrow: Philox4x64-10 as numpy computes it from key and counter alone."""
    assert random_bits(0, AnswerNumber(0, 1), 0) == 3908118788357988974
    assert random_bits(7, AnswerNumber(3, 1), 5) == 7158955714618893136


@pytest.mark.parametrize(
    "changed",
    [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (2**63 - 1, 0, 0, 0)],
    ids=["seed", "conversation", "turn", "position", "largest seed"],
)
def test_seed_conversation_turn_and_position_each_change_the_bits(changed: tuple[int, int, int, int]) -> None:
    seed, conversation, turn, position = changed
    assert random_bits(seed, AnswerNumber(conversation, turn), position) != random_bits(0, AnswerNumber(0), 0)
