"""One run per folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune.disk import open_lock, storage_errors
from finetune.errors import FolderInUseError

LOCK_FILE = ".lock"


@contextmanager
def run_lock(output: Path) -> Iterator[None]:
    """Hold a run folder for this process; makes the folder. Raises FolderInUseError naming who holds it.

    The system drops the lock when its process dies, however it dies: there is no stale lock to clean up. The
    file stays, because another run may have opened it the moment before it would be removed.
    """
    descriptor = open_lock(output / LOCK_FILE)
    try:
        _take(descriptor, output)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise FolderInUseError(
            f"{output}: {holder} is training here; wait for it, or choose another training_args.output_dir"
        ) from None
    with storage_errors(output / LOCK_FILE):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
