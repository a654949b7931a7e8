"""metrics.jsonl: one JSON object per line, flushed at once; every line has a `step`."""

import json
from collections.abc import Mapping
from io import TextIOWrapper
from math import isfinite
from pathlib import Path
from typing import Any

from finetune.disk import storage_errors, write_atomically
from finetune.plain_json import parse_json


class MetricsFile:
    """Appends lines. Every method raises StorageError where the disk is full or not ours to write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIOWrapper | None = None

    def open(self) -> None:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, values: Mapping[str, float]) -> None:
        """A value that is not finite becomes null: JSON has no word for it."""
        assert self._file is not None, "write before open"
        finite = {name: value if isfinite(value) else None for name, value in values.items()}
        with storage_errors(self.path):
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with storage_errors(self.path):
                file.close()


def truncate_metrics(path: Path, step: int) -> None:
    """Leave the lines of steps up to `step`, as a run resumed from there would have found them.

    A killed run may have left half a line; whatever does not parse goes too.
    The file is replaced at once or not at all.
    """
    if not path.exists():
        return
    written = path.read_bytes()
    kept = b"".join(line for line in written.splitlines(keepends=True) if _belongs(line, step))
    if kept != written:
        write_atomically(path, kept)


def _belongs(line: bytes, step: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        value: Any = parse_json(line)
    except ValueError:
        return False
    written_at = value.get("step") if isinstance(value, dict) else None
    return isinstance(written_at, int | float) and written_at <= step
