"""What a data file is for, by the words of its name: `dev.jsonl`, `my-test.json`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from finetune.errors import DataError, some_of

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


_NOTES = frozenset(
    (
        *("license", "licence", "copying", "notice", "authors", "citation", "contributing"),
        *("readme", "notes", "changelog", "metadata"),
        *("dataset_info", "dataset_infos", "dataset_dict", "state"),
    )
)
"""What lies beside data and is none, whatever its ending."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """The data files of a folder or an archive by what they are for; stray: those that are for nothing.

    One meaning everywhere: a file is for what a word of its name says. Files without such a word train where no
    file is called train, and stray otherwise; so do texts beside other data, and notes such as LICENSE.txt.
    """

    where: str
    named: Mapping[Split, tuple[str, ...]]
    unnamed: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, where: str, names: Iterable[str]) -> "Sorted":
        """Of the names of data files, in their order; `where` they lie, for messages."""
        listed = sorted(names)
        only_texts = all(_is_text(name) or _is_note(name) for name in listed)
        named: dict[Split, tuple[str, ...]] = {}
        unnamed, notes = [], []
        for name in listed:
            split = split_of(name.rpartition("/")[2])
            if _is_note(name) or (split is None and _is_text(name) and not only_texts):
                notes.append(name)
            elif split is None:
                unnamed.append(name)
            else:
                named[split] = (*named.get(split, ()), name)
        return cls(where, named, tuple(unnamed), tuple(notes))

    def for_split(self, split: Split) -> tuple[str, ...]:
        """What is read for `split`. Raises DataError where there is nothing."""
        found = self.named.get(split) or self.unnamed
        if not found:
            there = some_of([name for names in self.named.values() for name in names] or self.notes, 8)
            raise DataError(f"{self.where}: no file for {split} in it; it holds {there or 'no data file'}")
        return found

    @property
    def all(self) -> Mapping[str, Split]:
        """What is read where all of it is asked for, training files first."""
        training = self.named.get("training") or self.unnamed
        found = {"training": training, **self.named}
        return {name: split for split in SPLITS for name in found.get(split, ())}

    @property
    def stray(self) -> tuple[str, ...]:
        """What nothing reads: notes, and files without a word for their split beside one called train."""
        return (*self.notes, *(self.unnamed if "training" in self.named else ()))


def _is_note(name: str) -> bool:
    return name.rpartition("/")[2].partition(".")[0].lower() in _NOTES


def _is_text(name: str) -> bool:
    return ".txt" in name.lower()
