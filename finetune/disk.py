"""Bytes that stay: files that are whole or absent after a power cut, and what a full disk says.

Every change goes through `os` (pathlib's methods call it too), so that a test can count the operations and
stop the process between any two.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.errors import FolderInUseError, StorageError
from finetune.workspace import workspace

_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system or its limits (ulimit -f) allow",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk failed to read or write",
    errno.ENAMETOOLONG: "the path is too long",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}
_NO_LOCK = "not a file, though we keep a lock of that name; remove it, or use another folder"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


def cache_folder() -> Path:
    """Where we keep what can be made again ($FINETUNE_CACHE says otherwise); it may not exist yet."""
    if given := os.environ.get("FINETUNE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`: a reader sees the old file or the new one, also after a crash.

    Makes the folder where there is none. Raises StorageError.
    """
    with storage_errors(path, needed=len(content)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with workspace(path.parent) as work:
            write_synced(work / path.name, content)
            (work / path.name).rename(path)
            sync_folder(path.parent)


def encoded(text: str) -> bytes:
    """As UTF-8. A path that is none has surrogates: they become the escapes that JSON reads back."""
    return text.encode(errors="backslashreplace")


def is_utf8(name: object) -> bool:
    """Whether a path or text has no bytes that are no UTF-8, which Python keeps as surrogates."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it lies on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """A descriptor of a lock file, made if need be with its folder; the system drops locks when a process dies.

    In a folder that somebody else made, a link or a pipe may stand in its place, and what we write would go to
    where that leads. Raises FolderInUseError for these, StorageError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            raise FolderInUseError(f"{path}: {_NO_LOCK}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FolderInUseError(f"{path}: {_NO_LOCK}")
    return descriptor


@contextmanager
def unpublished(output: Path) -> Iterator[Path]:
    """Yield an empty folder, which becomes `output` when the block ends without an error.

    After an error, a signal that Python sees or a full disk nothing is left. Raises FolderInUseError where
    `output` exists, StorageError for what the disk refuses.
    """
    refuse_existing(output)
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with workspace(output.parent) as work:
            folder = work / output.name
            folder.mkdir()
            yield folder
            _flush(folder)
            refuse_existing(output)
            folder.rename(output)
            sync_folder(output.parent)


def refuse_existing(output: Path) -> None:
    """Raises FolderInUseError where something stands in the way, StorageError for a name that cannot be."""
    if _stands(output):
        raise FolderInUseError(f"{output}: exists already; name a folder that does not, or remove it")


def refuse_existing_file(output: Path) -> None:
    """Raises FolderInUseError where `output` exists, StorageError where the folder it would lie in does not."""
    if _stands(output):
        raise FolderInUseError(f"{output}: exists already; give another name with --output, or remove it")
    if not output.absolute().parent.is_dir():
        raise StorageError(f"{output.parent}: no such folder")


def _stands(path: Path) -> bool:
    with storage_errors(path):
        return path.exists() or path.is_symlink()


def _flush(folder: Path) -> None:
    """Wait until every file and name lies on the disk."""
    for path in sorted(folder.rglob("*")):
        grant(path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


def grant(path: Path) -> None:
    """Give a file or folder of another library the mode that the user's umask says; safetensors writes 0600."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def seal(path: Path) -> str:
    """Wait until a file another library wrote lies on the disk, with the umask's mode; return its sha256."""
    grant(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` lie on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def bytes_free(folder: Path) -> int:
    """Bytes that this user may still write on the disk that holds `folder`, which need not exist yet."""
    while True:
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            if folder == (folder := folder.absolute().parent):
                raise


def require_free(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to begin what will not fit. Raises StorageError with both numbers."""
    free = bytes_free(folder)
    if needed > free:
        raise StorageError(
            f"{folder}: {purpose} needs {human(needed)} and {human(free)} are free; "
            "make room, or write elsewhere"
        )


@contextmanager
def storage_errors(path: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the system says about a disk into a StorageError naming the path, bytes needed and bytes free.

    Files that are simply not there stay FileNotFoundError: that is no fault of the disk.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number not in _CAUSES:
            raise
        raise StorageError(_explain(path, number, error, needed)) from error


def _error_number(error: Exception) -> int | None:
    """The errno behind an error; safetensors writes in Rust and puts it into the text alone."""
    if isinstance(error, OSError):
        return error.errno
    found = _RUST_ERROR.search(str(error))
    return int(found[1]) if found else None


def _explain(path: Path, number: int, error: Exception, needed: int | None) -> str:
    where = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else path
    cause, advice = _CAUSES[number], "write elsewhere, or allow writing there"
    if number in _NO_ROOM:
        wanted = "" if needed is None else f"{human(needed)} needed, "
        cause, advice = f"{cause} ({wanted}{human(bytes_free(path))} free)", "make room, or write elsewhere"
    return f"{where}: {cause}; nothing saved before is harmed; {advice}"


def human(size: int) -> str:
    """Bytes as a person reads them, and exactly: `1.5 GB (1500000000 bytes)`."""
    value, units = float(size), ["kB", "MB", "GB", "TB"]
    if size < 1000:
        return f"{size} bytes"
    while (value := value / 1000) >= 1000 and len(units) > 1:
        units.pop(0)
    return f"{value:.1f} {units[0]} ({size} bytes)"
