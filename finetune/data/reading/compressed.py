"""Files as they are, or packed by gzip or Zstandard: their bytes, and what is raised where they are damaged."""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any, cast

from finetune.config.files import PACKED_SUFFIXES
from finetune.errors import DataError, MissingLibraryError


class DamagedError(Exception):
    """Packed bytes that do not unpack."""


DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, DamagedError)
"""What reading a damaged file raises."""


def without_packing(path: Path) -> Path:
    """`path` without the ending that says how it is packed."""
    return path.with_suffix("") if path.suffix in PACKED_SUFFIXES else path


def open_file(path: Path) -> BufferedReader:
    """The bytes of a file, unpacked. Raises DataError if it cannot be opened, MissingLibraryError for .zst."""
    try:
        if path.suffix == ".gz":
            return BufferedReader(cast(RawIOBase, gzip.GzipFile(path)))
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    return BufferedReader(_ZstdFile(file, path.name)) if path.suffix == ".zst" else file


class _ZstdFile(RawIOBase):
    """Zstandard frames, one behind the other."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._pieces = _unpacked(file, name)
        self._ahead = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._ahead:
            self._ahead = memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._ahead))
        buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _unpacked(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The bytes, in pieces. Not by the library's own reader, which takes a file cut short for a whole one."""
    new_frame, broken = _zstd(name)
    frame = None
    while packed := file.read(16_384):
        while packed:
            frame = frame or new_frame()
            try:
                yield from filter(None, [frame.decompress(packed)])
            except broken as error:
                raise DamagedError(str(error)) from None
            packed, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("the file ends in the middle of a frame")


def _zstd(name: str) -> tuple[Callable[[], Any], type[Exception]]:
    try:
        from zstandard import ZstdDecompressor, ZstdError
    except ImportError:
        raise MissingLibraryError(f"reading {name}", "zstandard", "zstd") from None
    return ZstdDecompressor().decompressobj, ZstdError
