"""Where an evaluation's files go, so that none overwrites those of another and no two write at once.

    RUN/eval/<stem of the data file>               of what is no run: eval-<model>/<stem>
    RUN/eval/<stem>-<hash of what is evaluated>    where the first belongs to something else

A folder belongs to the evaluation that wrote there first: its lock file, which stays, says which model,
quantization and data file. The same evaluation writes into its folder again.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune import folder, log
from finetune.disk import open_lock, storage_errors
from finetune.errors import FolderInUseError
from finetune.plain_json import parse_json

SCORES_FILE = "scores.json"
LOCK_FILE = ".eval.lock"

Subject = Mapping[str, str | None]
"""What is evaluated: model, quantization and data, the paths absolute."""


def subject_of(model_or_run: str, data_file: str, quantization: str | None) -> Subject:
    """What a person named; the checkpoint that stands for a run may change."""
    model = model_or_run if folder.is_hub_id(model_or_run) else str(Path(model_or_run).expanduser().resolve())
    return {"model": model, "quantization": quantization, "data": str(Path(data_file).resolve())}


@contextmanager
def place_for(subject: Subject, output: Path | None, run: Path | None) -> Iterator[Path]:
    """Hold the folder for this process; makes it. `output`: the one that a person named, whatever it holds.

    Raises FolderInUseError where another process evaluates there, StorageError.
    """
    place = output or _usual(subject, run)
    with _locked(place) as (descriptor, held):
        owner = subject if output else _owner(descriptor, place)
        if owner in (None, subject):
            _claim(descriptor, held, place, subject)
            yield place
            return
    beside = place.with_name(f"{place.name}-{_hash(subject)}")
    log.info(f"{place} belongs to the evaluation of {_told(owner)}; using {beside}")
    with _locked(beside) as (descriptor, held):
        _claim(descriptor, held, beside, subject)
        yield beside


def _usual(subject: Subject, run: Path | None) -> Path:
    name = Path(str(subject["data"])).stem
    return Path(f"eval-{Path(str(subject['model'])).name}") / name if run is None else run / "eval" / name


@contextmanager
def _locked(place: Path) -> Iterator[tuple[int, bool]]:
    """The lock file of a folder, and whether the lock is ours while this is entered."""
    descriptor = open_lock(place / LOCK_FILE)
    try:
        yield descriptor, _take(descriptor)
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _claim(descriptor: int, held: bool, place: Path, subject: Subject) -> None:
    if not held:
        raise FolderInUseError(
            f"{place}: another process evaluates here; wait for it, or give another --output"
        )
    with storage_errors(place / LOCK_FILE):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{json.dumps(subject)}\n".encode(), 0)


def _owner(descriptor: int, place: Path) -> Subject | None:
    """Whose folder it is; None where it is nobody's yet, or nobody can tell."""
    written = _object(os.pread(descriptor, 1 << 16, 0))
    if written:
        return written
    scores = place / SCORES_FILE  # all that there is of an evaluation by an earlier version
    before = _object(scores.read_bytes()) if scores.is_file() else {}
    if isinstance(model := before.get("model"), str) and isinstance(data := before.get("data"), str):
        try:
            return subject_of(model, data, None)
        except (ValueError, OSError, RuntimeError):  # what can be no path
            return None
    return None


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = parse_json(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _told(subject: Subject) -> str:
    quantized = f" in {subject['quantization']}" if subject.get("quantization") else ""
    return f"{subject.get('model')}{quantized} on {subject.get('data')}"


def _hash(subject: Subject) -> str:
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:8]
