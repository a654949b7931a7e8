"""Save a checkpoint so that a kill at any instant leaves a whole one; load one back exactly.

tmp-finetune-<id>/checkpoint-<step>/  write → fsync files and folders → manifest.json → fsync
rename to checkpoint-<step>/  (the commit) → fsync the parent → retention
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from finetune import disk, log
from finetune.errors import CheckpointError
from finetune.folder import checkpoints
from finetune.manifest import (
    MANIFEST_FILE,
    FileEntry,
    Manifest,
    encode_manifest,
    read_manifest,
    verify,
)
from finetune.train.checkpoint.holder import (
    Holder,
    apply_schedule,
    check_parameters,
    describe_schedule,
)
from finetune.train.checkpoint.identity import Identity
from finetune.train.checkpoint.retain import retain, set_aside
from finetune.train.checkpoint.rng import capture_rng
from finetune.train.checkpoint.state import Best, TrainState, read_state, write_state
from finetune.workspace import workspace

_SLACK_BYTES = 1_000_000
"""Tokenizer, configuration and manifest beside the tensors, where no earlier checkpoint tells."""


def snapshot(
    step: int,
    holder: Holder,
    schedule: LRScheduler,
    *,
    rng: Mapping[str, Tensor] | None = None,
    counters: Mapping[str, Any] | None = None,
    best: Best | None = None,
) -> TrainState:
    """The state of a training after `step` optimizer steps; its tensors are the live ones.

    `rng`: the generators of all processes (None: of this one). All processes take it together.
    """
    return TrainState(
        step=step,
        trainable=holder.parameters(),
        optimizer=holder.memory(),
        schedule=describe_schedule(schedule),
        rng=dict(capture_rng() if rng is None else rng),
        counters=dict(counters or {}),
        best=best,
    )


def restore(checkpoint: Path, holder: Holder, optimizer: Optimizer, schedule: LRScheduler) -> TrainState:
    """Load a verified checkpoint into a live training; its random generators are the caller's to restore, last.

    Making models, optimizers and schedules may draw random numbers: call `restore_rng(state.rng)` right before
    the first step. Raises CheckpointError without a training state, ResumeMismatchError naming parameters.
    """
    state = read_state(checkpoint)
    holder.write(check_parameters(state.trainable, holder.parameters()))
    holder.write_memory(state.optimizer)
    apply_schedule(state, schedule, optimizer)
    return state


def save_checkpoint(
    output: Path,
    state: TrainState,
    write_model: Callable[[Path], None],
    *,
    identity: Identity,
    limit: int | None = None,
    only_model: bool = False,
) -> Path:
    """Publish `checkpoint-<step>` and remove those beyond `limit` (None: keep all); returns its folder.

    `write_model(folder)` writes adapter or model, tokenizer and template. With `only_model` the training state
    is left out, and nobody can resume from it. A step that is published already is left as it is.
    Raises StorageError with bytes needed and free; what was published before is whole all the same.
    """
    target = output / f"checkpoint-{state.step}"
    needed = _bytes_needed(output, state, only_model)
    with disk.storage_errors(target, needed=needed):
        if not _already_there(target):
            output.mkdir(parents=True, exist_ok=True)
            disk.require_free(output, needed, target.name)
            _write_and_publish(target, state, write_model, identity, only_model)
    retain(output, limit, state.best.checkpoint if state.best else None)
    return target


def _already_there(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        verify(target)
    except CheckpointError as error:
        log.warning(f"{error}; written anew")
        set_aside(target)
        return False
    return True


def _bytes_needed(output: Path, state: TrainState, only_model: bool) -> int:
    """What the next checkpoint will take: as much as the newest of its kind, else about its tensors."""
    for previous in checkpoints(output)[:1]:
        try:
            manifest = read_manifest(previous)
        except CheckpointError:
            break
        if manifest.resumable is not only_model:
            return manifest.bytes
    model = sum(tensor.nbytes for tensor in state.trainable.values())
    return model + (0 if only_model else state.bytes) + _SLACK_BYTES


def _write_and_publish(
    target: Path, state: TrainState, write_model: Callable[[Path], None], identity: Identity, only_model: bool
) -> None:
    with workspace(target.parent) as work:
        folder = work / target.name
        folder.mkdir()
        write_model(folder)
        if not only_model:
            write_state(folder, state)
        manifest = _manifest(state, identity, not only_model, _seal_all(folder))
        disk.write_synced(folder / MANIFEST_FILE, encode_manifest(manifest))
        disk.sync_folder(folder)
        folder.rename(target)
        disk.sync_folder(target.parent)


def _seal_all(folder: Path) -> dict[str, FileEntry]:
    """Bring every file and sub-folder to the disk; path -> size and hash."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            disk.sync_folder(path)
        else:
            digest = disk.seal(path)
            entries[path.relative_to(folder).as_posix()] = FileEntry(path.stat().st_size, digest)
    return entries


def _manifest(state: TrainState, identity: Identity, resumable: bool, files: dict[str, FileEntry]) -> Manifest:
    return Manifest(
        step=state.step,
        world_size=identity.environment["world_size"],
        conversations_per_step=identity.conversations_per_step,
        resumable=resumable,
        identity=identity.as_dict(),
        parameters={name: list(tensor.shape) for name, tensor in state.trainable.items()},
        versions=identity.environment["versions"],
        files=files,
    )
