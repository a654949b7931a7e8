"""Where a run begins: at which checkpoint, or at step 0 in a cleared folder."""

import time
from pathlib import Path

from finetune import disk, log
from finetune.errors import CheckpointError, FolderInUseError, ModelError, ResumeMismatchError
from finetune.folder import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    REJECTED_FILE,
    REPORT_FILE,
    RUN_FILE,
    checkpoints,
    read_run,
    step_of,
    verify,
)
from finetune.manifest import read_manifest
from finetune.printing import Lines
from finetune.train.checkpoint.identity import Identity, compare
from finetune.train.checkpoint.retain import set_aside
from finetune.workspace import sweep

_RUN_FILES = (RUN_FILE, METRICS_FILE, PREDICTIONS_FILE, REJECTED_FILE, REPORT_FILE)


def choose_resume(output: Path, resume: str | None, *, restarted: bool = False) -> Path | None:
    """The verified checkpoint to go on from, or None for a fresh start. Changes nothing: see `make_way`.

    `resume` is the fourth argument of `finetune train`: None, `yes`, `no`, a step or a checkpoint folder.
    `restarted` (by torchrun, after a failure) goes on from the newest whatever was asked at first.
    Raises FolderInUseError (no `resume` in a folder that holds a run), CheckpointError (none can be used).
    """
    wish = (resume or "").strip()
    if restarted and checkpoints(output):
        wish = "yes"
    return _choose(output, wish)


def make_way(output: Path, chosen: Path | None) -> None:
    """Leave the folder ready for a run that begins at `chosen`, once nothing can be refused any more.

    What was half written is removed. Checkpoints after the chosen one would be taken for its future: damaged
    ones are renamed `rejected-<step>-<id>`, whole ones move to `old-<time>/`. A fresh start (None) moves the
    whole run there. Each is said. Call it under the run's lock, in one process. Raises StorageError.
    """
    sweep(output)
    if chosen is None:
        _move_to_old(output, [*checkpoints(output), *(output / name for name in _RUN_FILES)])
    elif chosen.parent == output:
        later = [other for other in checkpoints(output) if step_of(other) > step_of(chosen)]
        _move_to_old(output, [other for other in later if not _set_aside_if_damaged(other)])


def _set_aside_if_damaged(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except CheckpointError as error:
        log.warning(f"{error}; renamed {set_aside(checkpoint).name}")
        return True
    return False


def check_identity(checkpoint: Path, identity: Identity) -> None:
    """Refuse to continue another training than the checkpoint's; say what only touches the last bits.

    Raises ResumeMismatchError naming every difference.
    """
    try:
        notices = compare(read_manifest(checkpoint).identity, identity.as_dict())
    except ResumeMismatchError as error:
        raise ResumeMismatchError(f"{checkpoint}: {error}") from None
    for notice in notices:
        log.info(notice)


def _choose(output: Path, wish: str) -> Path | None:
    match wish.lower():
        case "":
            _refuse_a_run(output)
            return None
        case "no":
            return None
        case "yes":
            return _newest(output)
        case number if number.isascii() and number.isdigit():
            return _numbered(output, int(number))
        case _:
            return _at_path(output, Path(wish).expanduser())


def _refuse_a_run(output: Path) -> None:
    found = checkpoints(output)
    if found or _is_done(output):
        what = found[0].name if found else "a finished run"
        raise FolderInUseError(
            f"{output}: holds {what}; RESUME yes continues it, "
            "RESUME no moves it to old-<time>/ and begins again"
        )


def _is_done(output: Path) -> bool:
    try:
        return (output / RUN_FILE).exists() and read_run(output).get("status") == "done"
    except ModelError:
        return False  # a damaged run.json without checkpoints holds nothing worth a refusal


def _newest(output: Path) -> Path | None:
    """The newest checkpoint that verifies and can be resumed; None only where there is no checkpoint folder."""
    reasons = []
    for checkpoint in checkpoints(output):
        try:
            return _usable(checkpoint)
        except CheckpointError as error:
            reasons.append(str(error))
    if reasons:
        raise CheckpointError(
            Lines(
                [
                    f"{output}: no checkpoint can be resumed; RESUME no begins again:",
                    *(f"  {r}" for r in reasons),
                ]
            )
        )
    return None


def _numbered(output: Path, step: int) -> Path:
    there = [step_of(checkpoint) for checkpoint in checkpoints(output)]
    if step not in there:
        listed = ", ".join(str(number) for number in sorted(there)) or "none"
        raise CheckpointError(f"{output}: no checkpoint-{step}; there are: {listed}")
    return _usable(output / f"checkpoint-{step}")


def _at_path(output: Path, path: Path) -> Path:
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint folder; RESUME is yes, no, a step or a folder")
    if path.resolve().parent == output.resolve():
        return _usable(output / path.resolve().name)
    _refuse_a_run(output)
    return _usable(path)


def _usable(checkpoint: Path) -> Path:
    if not verify(checkpoint).resumable:
        raise CheckpointError(f"{checkpoint}: holds a model but no training state (save_only_model: true)")
    return checkpoint


def _move_to_old(output: Path, paths: list[Path]) -> None:
    paths = [path for path in paths if path.exists()]
    if not paths:
        return
    old = _free_name(output / f"old-{time.strftime('%Y%m%d-%H%M%S')}")
    with disk.storage_errors(old):
        old.mkdir()
        for path in paths:
            path.rename(old / path.name)
        disk.sync_folder(old)
        disk.sync_folder(output)
    log.info(f"{output}: moved to {old.name}/: {', '.join(path.name for path in paths)}")


def _free_name(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate
