"""How much the cache of encoded data may take, and what leaves it: the least recently used that nobody reads.

Which was used when is all that clocks decide here: one that jumps changes the order, and nothing else.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finetune import log
from finetune.disk import bytes_free, human
from finetune.errors import ConfigError

LIMIT = "FINETUNE_CACHE_LIMIT"
MOST = 20 * 10**9
SHARE = 10
"""Where $FINETUNE_CACHE_LIMIT says no other limit: so many bytes, or this part of the disk if that is less."""

_HELD: dict[Path, int] = {}
"""Open files with a shared lock, by entry: until this process ends, nobody removes what it reads."""


def limit_of(folder: Path) -> int:
    """Bytes that the entries of `folder` may take together. Raises as `given_limit` does."""
    given = given_limit()
    return min(MOST, shutil.disk_usage(folder).total // SHARE) if given is None else given


def given_limit() -> int | None:
    """The limit in the environment, in bytes; None where there is none. Raises ConfigError: no number."""
    given = os.environ.get(LIMIT, "").strip()
    if not given:
        return None
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < 1e9:
        raise ConfigError(f"{LIMIT}={given}: expected a number of GB, such as 5 or 0.5; 0 keeps nothing")
    return int(gigabytes * 10**9)


def hold(entry: Path, file: Path) -> None:
    """Keep others from removing `entry` while this process lives, by a lock on one of its files."""
    with suppress(OSError):
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # a file system without locks, or one who removes it just now
            os.close(handle)
            return
        release(entry)
        _HELD[entry] = handle


def release(entry: Path) -> None:
    """Let go of an entry that was held."""
    if (handle := _HELD.pop(entry, None)) is not None:
        os.close(handle)


def make_room(folder: Path, needed: int, spare: int, lock_name: str) -> str | None:
    """Remove entries until `needed` bytes fit into the limit and leave `spare` on the disk; else say why not.

    lock_name: the file of an entry that whoever reads it has locked.
    """
    limit = limit_of(folder)
    if needed > limit:
        return f"{human(needed)} are more than the cache may take ({human(limit)}; {LIMIT} says otherwise)"
    taken = {entry: _bytes_in(entry) for entry in _least_recently_used(folder)}
    for entry, size in list(taken.items()):
        if sum(taken.values()) + needed <= limit and bytes_free(folder) >= needed + spare:
            return None
        with _unheld(entry / lock_name) as free:
            if free:
                shutil.rmtree(entry, ignore_errors=True)
        if free and not entry.exists():
            log.info(f"removed from the cache, to make room: {entry} ({human(size)})")
            del taken[entry]
    if sum(taken.values()) + needed > limit:
        what = f"{human(sum(taken.values()))} of the {human(limit)} that the cache may take"
        return f"{what} are held by other runs, or cannot be removed"
    if bytes_free(folder) < needed + spare:
        return f"{human(needed)} leave too little room in {folder}"
    return None


def _least_recently_used(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("tmp-")]
    return sorted(entries, key=_last_used)


def _last_used(entry: Path) -> float:
    with suppress(OSError):  # somebody removes it just now
        return entry.stat().st_mtime
    return 0.0


def _bytes_in(entry: Path) -> int:
    total = 0
    with suppress(OSError):  # somebody removes it just now
        total = sum(file.stat().st_size for file in entry.iterdir())
    return total


@contextmanager
def _unheld(file: Path) -> Iterator[bool]:
    """Whether nobody holds the entry of this file; while this is entered, nobody can begin to."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield True  # not an entry of ours that anybody could read
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except OSError:
        yield False
    finally:
        os.close(handle)
