"""The demo's base models: made and taught once, kept in the user's cache, copied to where they are shown."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from filecmp import cmp
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune.disk import cache_folder, storage_errors
from finetune.folder import checkpoints
from finetune.workspace import workspace

Run = Callable[[Sequence[str]], None]
"""Runs a command line of `finetune`, without the program's name."""


def told(run: Run, title: str, *arguments: str) -> None:
    """Run a command, after telling what it is for and how a user types it."""
    print(f"\n# {title}\n$ finetune {shlex.join(arguments)}", flush=True)
    run(arguments)


def taught(what: str, parts: Sequence[str], yaml: str, prepare: Callable[[Path], None], *, run: Run) -> Path:
    """A taught base from the cache, or made and taught now; the user is told `what`.

    `prepare` writes a model `random` and the rows that `yaml` names into a folder; `parts` is all that the base
    depends on, so that another recipe makes another base.
    """
    cache = cache_folder()
    recipe = sha256("\n".join((yaml, *parts)).encode()).hexdigest()[:12]
    base = cache / f"demo-{recipe}"
    if (base / "config.json").is_file():
        return base
    print(f"# {what} (once; it is kept for later)", flush=True)
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with workspace(cache) as work:
            prepare(work)
            config, output = work / "base.yaml", work / "taught"
            config.write_text(yaml, encoding="utf-8")
            place = f"training_args.output_dir={output}"
            run(["train", f"{work}", f"{work / 'random'}", f"{config}", "--set", place])
            checkpoints(output)[0].rename(base)
    return base


def copied(taught: Path, base: Path) -> Path:
    """The base at `base`, where a user finds it; beside one that an older version of the demo taught."""
    weights = "model.safetensors"
    if base.exists() and not cmp(taught / weights, base / weights, shallow=False):
        base = base.with_name(taught.name)
    if not base.exists():
        shutil.copytree(taught, base)
    return base


def free_folder(folder: Path, is_taken: Callable[[Path], bool] = Path.exists) -> Path:
    """A folder that is not taken (there already): this one, or one numbered after it."""
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in range(2, sys.maxsize))
    return folder if not is_taken(folder) else next(path for path in numbered if not is_taken(path))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
