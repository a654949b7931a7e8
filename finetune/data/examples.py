"""Encoded conversations in flat arrays.

input_ids      ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁   every token of every example, end to end
offsets        ^    ^        ^  ^     ^   where each example begins, and the end
first_example  ^             ^        ^   which examples each conversation owns (mostly one)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.data.album import Album
from finetune.data.encode import WEIGHT, Example
from finetune.data.ledger import FileAccount, Ledger
from finetune.data.reading.records import Malformed


@dataclass(frozen=True, eq=False)
class Examples:
    """All examples of a data set; example i is tokens offsets[i]:offsets[i + 1].

    input_ids: (tokens,) int32. loss_mask: (tokens,) bool. offsets: (examples + 1,) int64.
    first_example: (conversations + 1,) int64. lines, sources: (conversations,) where each comes from.
    lengths, supervised: (examples,) int32, tokens and those of them that are learnt.
    columns: (tokens,) each, what else the tokens carry, by name. weights: (examples,) what the learnt tokens of
    each example count together: `supervised` itself, or with a column `weight` its sums in float64.
    rejected: the records that were skipped, with their reasons. files: the account of each file.
    album: the pictures of each example.
    """

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    first_example: NDArray[np.int64]
    lines: NDArray[np.int64]
    sources: NDArray[np.int32]
    source_names: tuple[str, ...]
    files: tuple[FileAccount, ...]
    rejected: tuple[Malformed, ...]
    album: Album
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    lengths: NDArray[np.int32] = field(init=False)
    supervised: NDArray[np.int32] = field(init=False)
    weights: NDArray[np.int32] | NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        learnt = np.add.reduceat(self.loss_mask, self.offsets[:-1], dtype=np.int32)
        object.__setattr__(self, "lengths", np.diff(self.offsets).astype(np.int32))
        object.__setattr__(self, "supervised", learnt)
        object.__setattr__(self, "weights", learnt)
        if (column := self.columns.get(WEIGHT)) is not None:
            counted = column * self.loss_mask
            object.__setattr__(self, "weights", np.add.reduceat(counted, self.offsets[:-1], dtype=np.float64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tokens = slice(self.offsets[index], self.offsets[index + 1])
        columns = {name: column[tokens] for name, column in self.columns.items()}
        return Example(self.input_ids[tokens], self.loss_mask[tokens], self.album.of(index), columns)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def conversations(self) -> int:
        """How many conversations there are; a conversation may have several examples."""
        return len(self.first_example) - 1

    def examples_of(self, conversation: int) -> range:
        """The examples of one conversation."""
        return range(int(self.first_example[conversation]), int(self.first_example[conversation + 1]))

    def origin(self, conversation: int) -> str:
        """Where a conversation stands: file:line."""
        return f"{self.source_names[self.sources[conversation]]}:{self.lines[conversation]}"

    def origin_of(self, example: int) -> str:
        """Where the conversation of an example stands."""
        return self.origin(int(np.searchsorted(self.first_example, example, side="right")) - 1)

    def absent(self, ids: Sequence[int]) -> list[int]:
        """Those of some token ids that no example holds."""
        return [one for one in ids if not (self.input_ids == one).any()]

    @property
    def ledger(self) -> Ledger:
        """What became of the rows of all files together."""
        total = Ledger()
        for account in self.files:
            total = total.plus(account.ledger)
        return total

    @property
    def sha256(self) -> str:
        """Of the content: one file's own SHA-256; of several, and of pictures, theirs joined by +."""
        pictures = [f"pictures {self.album.sha256}"] if len(self.album) else []
        return "+".join([account.sha256 for account in self.files] + pictures)

    @property
    def format(self) -> str:
        return ", ".join(dict.fromkeys(account.format for account in self.files))

    @property
    def why(self) -> str:
        return "; ".join(dict.fromkeys(account.why for account in self.files))
