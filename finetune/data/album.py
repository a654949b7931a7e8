"""The pictures of encoded examples, in arrays that lie on disk: names, sizes and hashes, never pixels.

first_picture  ^  ^     ^  ^   the places where the pictures of each example begin in `shown`
shown          0  3  1  1      rows of the table of different pictures
"""

import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.data.images.picture import Picture

_HASH = 32  # bytes of a SHA-256


@dataclass(frozen=True, eq=False)
class Album:
    """Which pictures each example shows, and what is known of each of P different ones.

    first_picture: (examples + 1,) int64. shown: (pictures of all examples,) int32, rows of what follows.
    names: uint8, the paths end to end in UTF-8; name_ends: (P + 1,) int64, in bytes. hashes: (P, 32) uint8.
    sizes: (P, 2) int32, width and height. stamps: (P, 2) int64, bytes and time of change of the file.
    """

    first_picture: NDArray[np.int64]
    shown: NDArray[np.int32]
    names: NDArray[np.uint8]
    name_ends: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    stamps: NDArray[np.int64]

    def of(self, example: int) -> tuple[Picture, ...]:
        """The pictures of an example, in order."""
        first, end = self.first_picture[example : example + 2]
        return tuple(self[int(row)] for row in self.shown[first:end])

    def __len__(self) -> int:
        """How many different pictures there are."""
        return len(self.sizes)

    def __getitem__(self, row: int) -> Picture:
        name = self.names[self.name_ends[row] : self.name_ends[row + 1]].tobytes()
        width, height = self.sizes[row].tolist()
        return Picture(os.fsdecode(name), self.hashes[row].tobytes().hex(), width, height)

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """All of it, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def is_current(self) -> bool:
        """Whether every file still has the size and the time of change that it had when it was looked at."""
        return all(_stamp(self[row].path) == tuple(self.stamps[row].tolist()) for row in range(len(self)))

    @property
    def sha256(self) -> str:
        """Of the bytes of all pictures, in the order in which they were first seen."""
        return sha256(self.hashes.tobytes()).hexdigest()


ALBUM_ARRAYS = tuple(one.name for one in fields(Album))


@dataclass(slots=True)
class AlbumMaker:
    """An album that grows example by example."""

    first_picture: "array[int]" = field(default_factory=lambda: array("q", [0]))
    shown: "array[int]" = field(default_factory=lambda: array("i"))
    names: bytearray = field(default_factory=bytearray)
    name_ends: "array[int]" = field(default_factory=lambda: array("q", [0]))
    hashes: bytearray = field(default_factory=bytearray)
    sizes: "array[int]" = field(default_factory=lambda: array("i"))
    stamps: "array[int]" = field(default_factory=lambda: array("q"))
    rows: dict[Picture, int] = field(default_factory=dict)

    def add(self, pictures: Sequence[Picture]) -> None:
        """The pictures of the next example."""
        for picture in pictures:
            if picture not in self.rows:
                self._enter(picture)
            self.shown.append(self.rows[picture])
        self.first_picture.append(len(self.shown))

    def _enter(self, picture: Picture) -> None:
        self.rows[picture] = len(self.rows)
        self.names += os.fsencode(picture.path)
        self.name_ends.append(len(self.names))
        self.hashes += bytes.fromhex(picture.sha256)
        self.sizes.extend((picture.width, picture.height))
        self.stamps.extend(_stamp(picture.path))

    def made(self) -> Album:
        return Album(
            first_picture=np.frombuffer(self.first_picture, dtype=np.int64),
            shown=np.frombuffer(self.shown, dtype=np.int32),
            names=np.frombuffer(self.names, dtype=np.uint8),
            name_ends=np.frombuffer(self.name_ends, dtype=np.int64),
            hashes=np.frombuffer(self.hashes, dtype=np.uint8).reshape(-1, _HASH),
            sizes=np.frombuffer(self.sizes, dtype=np.int32).reshape(-1, 2),
            stamps=np.frombuffer(self.stamps, dtype=np.int64).reshape(-1, 2),
        )


def _stamp(path: str) -> tuple[int, int]:
    """Bytes and time of change, in nanoseconds; of a file that is gone, none that any file has."""
    try:
        found = Path(path).stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
