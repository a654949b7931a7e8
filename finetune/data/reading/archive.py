"""Data files in a zip archive, read where they lie: nothing is unpacked onto a disk.

An archive can be made that unpacks to thousands of times its size: what it would unpack to is counted before
anything is read, and zipfile reads no more than that.
"""

import zipfile
from collections.abc import Sequence
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self, cast

from finetune.data.reading.splits import Sorted

_ALWAYS_FINE = 64 << 20  # bytes unpacked
_TIMES = 200  # JSON packs 5 to 20 times, rows that repeat each other perhaps 100 times


class NotReadError(Exception):
    """Why an archive is not read."""


class Archive:
    """A zip file, open. files: its data files by what they are for. Raises NotReadError."""

    def __init__(self, path: Path, suffixes: Sequence[str]) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise NotReadError(f"no zip file, or a damaged one: {error}") from None
        entries = [entry for entry in self._zip.infolist() if _is_data(entry.filename, suffixes)]
        _refuse_bomb(sum(entry.file_size for entry in entries), path.stat().st_size)
        if not entries:
            raise NotReadError(f"no data file in it; expected {', '.join(suffixes)}")
        names = [entry.filename for entry in entries]
        if len(set(names)) < len(names):
            raise NotReadError("two files in it have one name")
        self.files = Sorted.of(str(path), names)

    def open(self, name: str) -> BufferedReader:
        """The bytes of a file in it. Raises NotReadError where it is encrypted, or packed in an unknown way."""
        try:
            return BufferedReader(cast(RawIOBase, self._zip.open(name)))
        except (RuntimeError, NotImplementedError) as error:
            raise NotReadError(f"{name}: {error}; pack it anew, without a password") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()


def _is_data(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file counts; those that a Mac or an editor put beside others do not."""
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in suffixes and not hidden and not name.endswith("/")


def _refuse_bomb(unpacked: int, packed: int) -> None:
    if unpacked > max(_ALWAYS_FINE, _TIMES * packed):
        reason = f"its {packed:,} bytes would unpack to {unpacked:,}, more than {_TIMES} times as many"
        raise NotReadError(f"{reason}; unpack it yourself, if you trust it")
