"""What a data file is for, by the words of its name: `dev.jsonl`, `my-test.json`."""

import re
from collections.abc import Mapping
from typing import Literal

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = ("training", "validation", "test")

_WORDS: Mapping[str, Split] = {
    "train": "training",
    "training": "training",
    "dev": "validation",
    "development": "validation",
    "eval": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(name: str) -> Split | None:
    """The split that a file's name tells; None where no word of it does."""
    words = re.split(r"[\W_]+", name.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), None)


def frame_of(name: str) -> str | None:
    """A name without its ending and the word that tells its split: the same for files that belong together.

    None where there is no such word.
    """
    words = re.split(r"([\W_]+)", name.partition(".")[0].lower())
    at = next((i for i, word in enumerate(words) if word in _WORDS), None)
    return None if at is None else "".join([*words[:at], "*", *words[at + 1 :]])
