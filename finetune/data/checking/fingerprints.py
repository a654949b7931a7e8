"""Which rows say the same, at 16 bytes a row.

Every row has two hashes: of its text as it is, and of the text without case and spacing. Rows whose second
hashes agree are duplicates, exact ones where the first agree, too.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Comparing goes through rows and keys in parts, so that it needs little memory of its own.
_AT_ONCE = 1 << 18
_PARTS = np.uint64(16)


@dataclass(frozen=True, slots=True)
class Repetition:
    """Row `row` says what row `first` said; `exact`: letter by letter."""

    row: int
    first: int
    exact: bool


@dataclass(slots=True)
class Fingerprints:
    """The hashes of rows 0, 1, 2 … and the lines where they stand."""

    read: "array[int]" = field(default_factory=lambda: array("Q"))
    exact: "array[int]" = field(default_factory=lambda: array("I"))
    lines: "array[int]" = field(default_factory=lambda: array("I"))

    def __len__(self) -> int:
        return len(self.read)

    def add(self, text: str, line: int) -> None:
        # Python's own hash: new in every process, and never leaves this one.
        self.read.append(hash(as_read(text)) & 0xFFFF_FFFF_FFFF_FFFF)
        self.exact.append(hash(text) & 0xFFFF_FFFF)
        self.lines.append(line)

    def repetitions(self) -> Iterator[Repetition]:
        """Every row that repeats an earlier one, with the first that said it, in the order of the rows."""
        rows = self._not_alone()
        if not len(rows):
            return
        keys = np.frombuffer(self.read, dtype=np.uint64)[rows]
        exact = np.frombuffer(self.exact, dtype=np.uint32)[rows]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        pairs = np.stack([keys, exact.astype(np.uint64)])
        _, first_exact, group_exact = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
        for place, row in enumerate(rows.tolist()):
            told, same = int(first[group[place]]), int(first_exact[group_exact.reshape(-1)[place]])
            if same != place:
                yield Repetition(row, int(rows[same]), exact=True)
            elif told != place:
                yield Repetition(row, int(rows[told]), exact=False)

    def _not_alone(self) -> NDArray[np.int64]:
        """The rows whose second hash another row has, too."""
        keys = np.frombuffer(self.read, dtype=np.uint64) if len(self) else np.empty(0, dtype=np.uint64)
        chunks = [keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE)]
        shared = np.concatenate([_shared(chunks, part) for part in range(int(_PARTS))]) if chunks else keys
        found = [
            start * _AT_ONCE + np.flatnonzero(np.isin(chunk, shared)) for start, chunk in enumerate(chunks)
        ]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _shared(chunks: Sequence[NDArray[np.uint64]], part: int) -> NDArray[np.uint64]:
    """The keys of one part (a remainder of _PARTS) that occur more than once."""
    keys = np.sort(np.concatenate([chunk[chunk % _PARTS == part] for chunk in chunks]))
    return np.unique(keys[1:][keys[1:] == keys[:-1]])


def as_read(text: str) -> str:
    """Text without case and spacing. (Unicode's NFKC besides would cost more than the rest of the check.)"""
    return "".join(text.casefold().split())
