"""Look at an image once: read it, hash it, decode it. What is a Picture afterwards can be trained on."""

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path

from finetune.chat.messages import Image
from finetune.data.images.decode import MOST_BYTES, size_of, too_large
from finetune.data.images.fetch import fetched
from finetune.data.images.picture import Picture
from finetune.data.images.wrong import WrongImageError
from finetune.disk import cache_folder, sha256_of, write_atomically

_REMEMBERED = 1 << 16  # results; the same image often stands in many records


def look(image: Image) -> Picture:
    """A settled image, read and decoded to its end. Raises WrongImageError; StorageError if the cache is full.

    What has no file of its own (bytes, an address) is kept in the cache, named by its hash.
    """
    if image.data is not None:
        return _kept(image.data, "an image in the record")
    path = image.path or ""
    if path.lower().startswith(("http://", "https://")):
        outcome = _at_address(path)
    else:
        status = _status(path)
        outcome = _in_file(path, status.st_size, status.st_mtime_ns)
    if isinstance(outcome, WrongImageError):
        raise WrongImageError(outcome.code, outcome.reason)
    return outcome


def _status(path: str) -> os.stat_result:
    """Of a regular file that is not too large."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    if stat.S_ISDIR(status.st_mode):
        raise WrongImageError("E312", f"{path}: a folder; name an image file in it")
    if not stat.S_ISREG(status.st_mode):
        raise WrongImageError("E312", f"{path}: no file that can be read, but a device or a pipe")
    if status.st_size > MOST_BYTES:
        raise too_large(path, f"{status.st_size / 10**6:,.0f} MB")
    return status


def _unreadable(path: str, error: OSError) -> WrongImageError:
    if isinstance(error, FileNotFoundError):
        hint = "; folders are divided by /, not by \\" if "\\" in path else ""
        return WrongImageError("E312", f"{path}: no such file{hint}")
    return WrongImageError("E312", f"{path}: cannot be read: {error.strerror}")


@lru_cache(maxsize=_REMEMBERED)
def _in_file(path: str, size: int, mtime_ns: int) -> Picture | WrongImageError:
    """The picture in a file as it was at that time; its mistake is remembered, too."""
    try:
        content = Path(path).read_bytes()
        width, height = size_of(content, path)
    except OSError as error:
        return _unreadable(path, error)
    except WrongImageError as wrong:
        return wrong
    return Picture(path, hashlib.sha256(content).hexdigest(), width, height)


@lru_cache(maxsize=_REMEMBERED)
def _at_address(address: str) -> Picture | WrongImageError:
    """The picture at an address, fetched once in the life of this process."""
    try:
        return _kept(fetched(address), address)
    except WrongImageError as wrong:
        return wrong


def _kept(content: bytes, name: str) -> Picture:
    """The picture in bytes, and a file of the cache that holds them."""
    if len(content) > MOST_BYTES:
        raise too_large(name, f"{len(content) / 10**6:,.0f} MB")
    width, height = size_of(content, name)
    digest = hashlib.sha256(content).hexdigest()
    path = cache_folder().absolute() / "images" / digest[:2] / digest
    if not path.is_file() or sha256_of(path) != digest:
        write_atomically(path, content)
    return Picture(str(path), digest, width, height)
