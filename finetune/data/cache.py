"""Encoded examples on disk, found again by everything they depend on.

    tokens/<key>/       input_ids.npy loss_mask.npy offsets.npy …  about.json
    tokens/<xx>.lock    held by the process that encodes; others of this machine that want the same wait for it

A folder appears whole (written aside, synced, renamed) or not at all, and its bytes are compared with the
hashes in about.json before they are used. Arrays are mapped into memory: a second run starts at once, and
the processes of one machine share them. All entries together have a limit (cache_limit.py). The cache can be
deleted at any time; where it cannot be written, examples are simply not kept.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from finetune import log
from finetune.data.album import ALBUM_ARRAYS, Album
from finetune.data.cache_limit import given_limit, hold, make_room, release
from finetune.data.examples import Examples
from finetune.data.ledger import FileAccount, Ledger
from finetune.data.reading.records import Malformed
from finetune.disk import (
    cache_folder,
    open_lock,
    seal,
    sha256_of,
    sync_folder,
    write_synced,
)
from finetune.errors import FolderInUseError, StorageError
from finetune.workspace import workspace

ABOUT = "about.json"
_ARRAYS = ("input_ids", "loss_mask", "offsets", "first_example", "lines", "sources")
_ALL_ARRAYS = (*_ARRAYS, *ALBUM_ARRAYS)
_ROOM_LEFT = 1 << 30  # bytes of the disk that the cache does not take


def cached(key: Mapping[str, object], make: Callable[[], Examples]) -> Examples:
    """The examples that depend on `key`, a JSON object, and on our code; made now if they are not there."""
    given_limit()  # before the work: a mistake in it would be told behind it
    described = json.dumps([key, _code_version()], sort_keys=True, default=str)
    folder = cache_folder() / "tokens" / hashlib.sha256(described.encode()).hexdigest()[:32]
    with _only_one(folder):
        if (found := _opened(folder)) is not None:
            log.info(f"encoded before: {folder}")
            return found
        examples = make()
        _keep(folder, examples)
    return _opened(folder) or examples


@cache
def _code_version() -> list[str]:
    """What decides how text becomes tokens, besides template and data: libraries, and the code of two rooms."""
    rooms = Path(__file__).parents[1]
    files = sorted(file for room in ("chat", "data") for file in (rooms / room).rglob("*.py"))
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return [total.hexdigest(), *(version(library) for library in ("tokenizers", "jinja2"))]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process of this machine makes these examples. The system drops a dead one's lock."""
    try:
        lock = open_lock(folder.with_name(f"{folder.name[:2]}.lock"))
    except (OSError, FolderInUseError, StorageError):
        yield  # nothing can be kept here, so there is nothing to wait for
        return
    try:
        _wait_for(lock)
        yield
    finally:
        os.close(lock)


def _wait_for(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("another process is encoding data: waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return  # a file system without locks: several processes may encode the same, and one of them keeps it


def _opened(folder: Path) -> Examples | None:
    """What lies in `folder`, or None; what is damaged is removed."""
    if not folder.is_dir():
        return None
    try:
        about = _read_about(folder / ABOUT)
        for name in (*_ALL_ARRAYS, *map(_column_file, about["columns"])):
            if sha256_of(folder / f"{name}.npy") != about["sha256"][name]:
                raise ValueError(f"{name}.npy is not what was written")
        os.utime(folder)  # used now
        hold(folder, folder / ABOUT)
        return _current(_examples(folder, about))
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning(f"{folder}: damaged ({error}); the data is encoded again")
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _read_about(path: Path) -> dict[str, Any]:
    """What stands behind the first line, which is its hash. Raises ValueError where the two do not agree."""
    digest, _, described = path.read_bytes().partition(b"\n")
    if hashlib.sha256(described).hexdigest().encode() != digest:
        raise ValueError(f"{path.name} is not what was written")
    about: dict[str, Any] = json.loads(described)
    return about


def _examples(folder: Path, about: Mapping[str, Any]) -> Examples:
    arrays = {name: _array(folder / f"{name}.npy") for name in _ARRAYS}
    album = Album(**{name: _array(folder / f"{name}.npy") for name in ALBUM_ARRAYS})
    files = [_account(file) for file in about["files"]]
    rejected = [Malformed(**problem) for problem in about["rejected"]]
    names = tuple(about["source_names"])
    columns = {name: _array(folder / f"{_column_file(name)}.npy") for name in about["columns"]}
    return Examples(
        **arrays,
        source_names=names,
        files=tuple(files),
        rejected=tuple(rejected),
        album=album,
        columns=columns,
    )


def _column_file(name: str) -> str:
    return f"column-{name}"


def _account(file: Mapping[str, Any]) -> FileAccount:
    return FileAccount(**{**file, "ledger": Ledger(**file["ledger"]), "remarks": tuple(file["remarks"])})


def _array(file: Path) -> Any:
    loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    return loaded


def _current(examples: Examples) -> Examples | None:
    """The examples, unless one of their pictures is another now."""
    if examples.album.is_current():
        return examples
    log.info("pictures have changed since the data was encoded: it is encoded again")
    return None


def _keep(folder: Path, examples: Examples) -> None:
    """Write the folder, whole or not at all; a disk that does not take it costs nothing but the next start."""
    arrays = {name: getattr(examples, name) for name in _ARRAYS}
    arrays |= examples.album.arrays()
    arrays |= {_column_file(name): column for name, column in examples.columns.items()}
    needed = sum(array.nbytes for array in arrays.values())
    try:
        release(folder)
        shutil.rmtree(folder, ignore_errors=True)  # one whose pictures have changed
        if (reason := make_room(folder.parent, needed, _ROOM_LEFT, ABOUT)) is not None:
            log.info(f"encoded data is not kept: {reason}")
            return
        with workspace(folder.parent) as work:
            aside = work / folder.name
            aside.mkdir()
            hashes = {}
            for name, array in arrays.items():
                np.save(aside / f"{name}.npy", array, allow_pickle=False)
                hashes[name] = seal(aside / f"{name}.npy")
            described = json.dumps(_about(examples, hashes), default=str).encode()
            write_synced(aside / ABOUT, hashlib.sha256(described).hexdigest().encode() + b"\n" + described)
            sync_folder(aside)
            aside.rename(folder)
            sync_folder(folder.parent)
    except OSError as error:
        log.info(f"encoded data is not kept: {error}")


def _about(examples: Examples, hashes: Mapping[str, str]) -> dict[str, object]:
    files = [asdict(account) for account in examples.files]
    return {
        "sha256": dict(hashes),
        "source_names": examples.source_names,
        "files": files,
        "rejected": [asdict(problem) for problem in examples.rejected],
        "columns": list(examples.columns),
    }
