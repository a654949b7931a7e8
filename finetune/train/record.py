"""run.json: what a run was asked, what it was made of, and how it ended."""

import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from finetune import world
from finetune.errors import Preempted, StorageError, exit_code_of
from finetune.folder import RUN_FILE, write_json
from finetune.redaction import record_without_secrets

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")


class RunRecord:
    """While entered, run.json says `running`; on leaving, how it ended and with which exit code.

    Nothing from the environment is written but versions and the kind of machine: a token may stand in the rest.
    """

    def __init__(self, output: Path, **asked: object) -> None:
        self._path = output / RUN_FILE
        self._content: dict[str, Any] = {
            "finetune": importlib.metadata.version("glm-finetune"),
            **asked,
            "started": now(),
            "status": "running",
            "versions": library_versions(),
            "environment": _environment(),
        }

    def __enter__(self) -> Self:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "done" if error is None else "preempted" if isinstance(error, Preempted) else "failed"
        code = 0 if error is None else exit_code_of(error)
        # What ended the run is what must be told, not that disk or memory are too full for the news.
        with suppress(StorageError, MemoryError) if error is not None else nullcontext():
            self.note(
                status=status, finished=now(), exit_code=code, error=None if error is None else str(error)
            )

    def note(self, **sections: object) -> None:
        """Add to run.json; a section that is a mapping on both sides grows, any other is replaced."""
        for name, section in sections.items():
            before = self._content.get(name)
            grows = isinstance(before, Mapping) and isinstance(section, Mapping)
            self._content[name] = {**before, **section} if grows else section  # type: ignore[dict-item]
        self._write()

    def _write(self) -> None:
        if world.is_main():
            write_json(self._path, record_without_secrets(self._content))


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **found}


def _environment() -> dict[str, Any]:
    return {"platform": platform.platform(), "machine": platform.machine(), "python": sys.version.split()[0]}


def now() -> str:
    """The time as run.json tells it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
