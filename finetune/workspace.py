"""Folders for what is not finished: marked as ours, and swept when the process that wrote there is dead.

tmp-finetune-<id>/finetune-unfinished   the mark: locked as long as its process lives
tmp-finetune-<id>/NAME                  becomes NAME beside the folder by a rename, when it is whole
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune import log

PREFIX = "tmp-finetune-"
MARK = "finetune-unfinished"
_OURS = re.compile(f"{PREFIX}[0-9a-f]{{8}}")


@contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Yield a new folder in `parent` for what is not finished; nothing of it is left in the end.

    Finished things are renamed out of it. Where a process is killed the folder stays, and the next workspace in
    `parent` removes it. Raises OSError.
    """
    sweep(parent)
    folder, mark = _new_marked(parent)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(mark)


def sweep(parent: Path) -> None:
    """Remove what processes that died left unfinished in `parent`; says so before.

    Nothing else is touched: not what has no mark of ours, and not what a process still holds.
    """
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        mark = _abandoned(folder)
        if mark is not None:
            log.info(f"{folder}: removing what an earlier process left unfinished")
            _remove(folder)
            os.close(mark)


def _new_marked(parent: Path) -> tuple[Path, int]:
    """A folder and its locked mark; another one where somebody's sweep was faster than the mark."""
    while True:
        folder = parent / f"{PREFIX}{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        try:
            return folder, _marked(folder)
        except (FileNotFoundError, BlockingIOError):
            continue
        except BaseException:
            _remove(folder)
            raise


def _marked(folder: Path) -> int:
    mark = os.open(folder / MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _lock(mark)
        os.pwrite(mark, _mark_of(os.getpid()), 0)
        (folder / MARK).stat()
    except BaseException:
        os.close(mark)
        raise
    return mark


def _lock(mark: int) -> None:
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # a file system without locks: nobody takes the folder for dead either


def _abandoned(folder: Path) -> int | None:
    """The mark of a folder that is ours and in nobody's hands, locked; else None.

    A process may die before it has written its mark, or after it has removed it: an empty folder by our kind
    of name goes too.
    """
    if not _OURS.fullmatch(folder.name) or folder.is_symlink():
        return None
    with suppress(OSError):
        folder.rmdir()
        return None
    try:
        mark = os.open(folder / MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        written = os.pread(mark, 100, 0)
        if written.startswith(_mark_of()) or (not written and len(list(folder.iterdir())) == 1):
            return mark
    except OSError:
        pass
    os.close(mark)
    return None


def _mark_of(process: int | str = "") -> bytes:
    return f"unfinished, written by finetune, process {process}".encode()


def _remove(folder: Path) -> None:
    """The mark last, once all else is gone: what stays after a kill or an error is still known as ours."""
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARK:
                path.unlink(missing_ok=True)
        (folder / MARK).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        log.warning(f"{folder}: cannot be removed ({error}); the next command that writes here tries again")
