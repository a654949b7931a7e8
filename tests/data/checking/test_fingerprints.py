"""Rows that say the same are found, all of them and no others, whatever their number."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from finetune.data.checking import fingerprints
from finetune.data.checking.fingerprints import Fingerprints, Repetition, as_read

TEXTS = st.lists(st.sampled_from(["a", "A", "a ", "b", "B", "c", "好", "好 "]), max_size=40)


def by_hand(texts: list[str]) -> list[Repetition]:
    """The quadratic way."""
    found = []
    for row, text in enumerate(texts):
        exact = next((i for i in range(row) if texts[i] == text), None)
        alike = next((i for i in range(row) if as_read(texts[i]) == as_read(text)), None)
        if exact is not None:
            found.append(Repetition(row, exact, exact=True))
        elif alike is not None:
            found.append(Repetition(row, alike, exact=False))
    return found


def of(texts: list[str]) -> Fingerprints:
    prints = Fingerprints()
    for line, text in enumerate(texts, 1):
        prints.add(text, line)
    return prints


@given(TEXTS)
def test_repetitions_are_those_that_comparing_every_pair_finds(texts: list[str]) -> None:
    assert list(of(texts).repetitions()) == by_hand(texts)


@given(TEXTS)
def test_comparing_in_small_parts_finds_the_same(texts: list[str]) -> None:
    whole, fingerprints._AT_ONCE = fingerprints._AT_ONCE, 3
    try:
        assert list(of(texts).repetitions()) == by_hand(texts)
    finally:
        fingerprints._AT_ONCE = whole


def test_a_row_costs_16_bytes() -> None:
    prints = of([str(i) for i in range(10_000)])
    held = sum(len(array) * array.itemsize for array in (prints.read, prints.exact, prints.lines))
    assert held == 16 * 10_000
    assert sys.getsizeof(prints.read) < 8 * 10_000 * 1.13  # what an array keeps ready to grow
