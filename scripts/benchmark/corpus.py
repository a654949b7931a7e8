"""Made-up conversations whose lengths are spread as those of instruction data are."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

_CONSONANTS, _VOWELS = "bcdfghklmnprstvwz", "aeiou"
_WORDS = 6_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words of a prompt and of an answer: log-normal, by median and spread, and the most of both together."""

    prompt: int
    answer: int
    spread: float
    most: int


SHORT = Lengths(prompt=14, answer=70, spread=0.8, most=400)
"""Single instructions with short answers."""
LONG = Lengths(prompt=440, answer=148, spread=0.08, most=660)
"""About 1,000 tokens, a quarter of them supervised."""


def write_corpus(path: Path, count: int, lengths: Lengths, seed: int = 0) -> Path:
    """`count` conversations of two turns as JSON lines; the same arguments give the same bytes."""
    draw = random.Random(seed)
    words = ["".join(_syllable(draw) for _ in range(draw.randint(1, 4))) for _ in range(_WORDS)]
    weights = [1 / (rank + 3) for rank in range(_WORDS)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            prompt = min(_drawn(draw, lengths.prompt, lengths.spread), lengths.most - 1)
            answer = min(_drawn(draw, lengths.answer, lengths.spread), lengths.most - prompt)
            said = [" ".join(draw.choices(words, weights, k=size)) for size in (prompt, answer)]
            turns = zip(("user", "assistant"), said, strict=True)
            row = {"messages": [{"role": role, "content": text} for role, text in turns]}
            file.write(json.dumps(row) + "\n")
    return path


def _syllable(draw: random.Random) -> str:
    return draw.choice(_CONSONANTS) + draw.choice(_VOWELS)


def _drawn(draw: random.Random, median: int, spread: float) -> int:
    return max(1, round(median * draw.lognormvariate(0, spread)))
