"""In which writing systems a data set is written: letters, counted by the Unicode blocks that hold them.

What a person wants to know is the mix: a file of Chinese answers with a share of English ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# First and last code point of letters (Unicode 16, Blocks.txt), in multiples of 64.
_BLOCKS: Mapping[str, Sequence[tuple[int, int]]] = {
    "Latin": ((0x41, 0x7F), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0xFF40, 0xFF5F)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x53F),),
    "Hebrew": ((0x580, 0x5FF),),
    "Arabic": ((0x600, 0x6FF), (0x740, 0x77F)),
    "Devanagari": ((0x900, 0x97F),),
    "Bengali": ((0x980, 0x9FF),),
    "Tamil": ((0xB80, 0xBFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Georgian": ((0x10A0, 0x10FF),),
    "Hangul": ((0x1100, 0x11FF), (0xAC00, 0xD7BF)),
    "Ethiopic": ((0x1200, 0x137F),),
    "Kana": ((0x3040, 0x30FF),),
    "Han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
}
_WIDTH = 6  # bits of a code point that do not matter
_ROOM = 1 << 16  # characters counted at once


def _table() -> NDArray[np.uint8]:
    """Code point >> 6 -> number of the writing system, from 1; 0: no letter of those above."""
    table = np.zeros(0x110000 >> _WIDTH, dtype=np.uint8)
    for number, blocks in enumerate(_BLOCKS.values(), 1):
        for first, last in blocks:
            table[first >> _WIDTH : (last >> _WIDTH) + 1] = number
    return table


@dataclass(slots=True)
class WritingSystems:
    """Letters of each writing system in the texts that were added."""

    table: NDArray[np.uint8] = field(default_factory=_table)
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_BLOCKS) + 1, dtype=np.int64))
    waiting: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, text: str) -> None:
        self.waiting.append(text)
        self.size += len(text)
        if self.size > _ROOM:
            self._count()

    def shares(self) -> dict[str, float]:
        """The share of each writing system in all letters, largest first; those below 0.1 % are left out."""
        self._count()
        letters = self.counts[1:]
        shares = dict(zip(_BLOCKS, (letters / max(1, int(letters.sum()))).tolist(), strict=True))
        return {name: share for name, share in sorted(shares.items(), key=lambda kv: -kv[1]) if share >= 0.001}

    def _count(self) -> None:
        codes = np.frombuffer("".join(self.waiting).encode("utf-32-le"), dtype=np.uint32)
        self.counts += np.bincount(self.table[codes >> _WIDTH], minlength=len(self.counts))
        self.waiting, self.size = [], 0
