"""Which checkpoints stay, and what becomes of the others. No torch: it runs before anything heavy is loaded."""

import uuid
from pathlib import Path

from finetune import disk, log
from finetune.errors import CheckpointError
from finetune.folder import checkpoints
from finetune.manifest import verify_quickly
from finetune.workspace import workspace


def retain(output: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints beyond `limit`; the best one stays and counts.

    Only whole ones are counted or removed, so `limit` ≥ 2 leaves two that can be used. A limit of 1 leaves the
    newest, and the best beside it where that is another.
    """
    if limit is None or limit < 1:
        return
    whole = [checkpoint for checkpoint in checkpoints(output) if _is_whole(checkpoint)]
    best_one = [checkpoint for checkpoint in whole if checkpoint.name == best]
    others = [checkpoint for checkpoint in whole if checkpoint.name != best]
    # the newest stays whatever the limit: it is where a resume goes on
    kept = {whole[0], *best_one, *others[: limit - len(best_one)]} if whole else set()
    for checkpoint in reversed(whole):
        if checkpoint not in kept:
            _remove(checkpoint)


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify_quickly(checkpoint)
    except CheckpointError:
        return False
    return True


def _remove(checkpoint: Path) -> None:
    """Out of its place first: a kill in the middle must not leave half a checkpoint under its name."""
    try:
        with workspace(checkpoint.parent) as doomed:
            checkpoint.rename(doomed / checkpoint.name)
            disk.sync_folder(checkpoint.parent)
    except OSError as error:
        log.warning(f"{checkpoint}: cannot be removed ({error}); training goes on, the disk fills")


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged `checkpoint-<step>` to `rejected-<step>-<id>`, which nobody takes for a checkpoint."""
    with disk.storage_errors(checkpoint):
        aside = checkpoint.rename(
            checkpoint.with_name(f"rejected-{checkpoint.name.removeprefix('checkpoint-')}-{_id()}")
        )
        disk.sync_folder(checkpoint.parent)
    return aside


def _id() -> str:
    return uuid.uuid4().hex[:8]
