"""The list that proves a checkpoint whole: `manifest.json`, written last and read first.

It names every file with its size and sha256, and what the checkpoint is. It ends with a sha256 of itself, so
a flipped byte is noticed here too. Written by `train.checkpoint`, read by everybody.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.disk import sha256_of
from finetune.errors import CheckpointError
from finetune.plain_json import parse_json

MANIFEST_FILE = "manifest.json"
FORMAT = 1
_READ_BY_LOADERS = {".safetensors", ".json", ".jinja", ".bin", ".pt", ".pth", ".py", ".model", ".txt"}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint: its size in bytes and the sha256 of its content, in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint is and what it is made of."""

    step: int
    """Optimizer steps finished."""
    world_size: int
    """How many processes trained it; any other number may resume it."""
    conversations_per_step: int
    resumable: bool
    """False: a model alone (`save_only_model`), which can be used but not trained on."""
    identity: Mapping[str, Any]
    """What the numbers depend on: config, data, template and base model (`train.identity`)."""
    parameters: Mapping[str, list[int]]
    """Name -> shape of every trained tensor."""
    versions: Mapping[str, str]
    files: Mapping[str, FileEntry]
    """Path inside the checkpoint, with `/` -> its entry; the manifest itself is not among them."""

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.bytes for entry in self.files.values())


def encode_manifest(manifest: Manifest) -> bytes:
    """The exact bytes of `manifest.json`."""
    content = {"format": FORMAT, **asdict(manifest)}
    return _spell({**content, "sha256": _digest(content)})


def verify(checkpoint: Path) -> Manifest:
    """Read every byte of a checkpoint and compare it with its manifest.

    Raises CheckpointError naming the file and the reason.
    """
    manifest = verify_quickly(checkpoint)
    for name, entry in manifest.files.items():
        if _hash(checkpoint / name) != entry.sha256:
            raise CheckpointError(f"{checkpoint / name}: damaged: its sha256 is not the manifest's")
    return manifest


def verify_quickly(checkpoint: Path) -> Manifest:
    """Compare names and sizes with the manifest, without reading the tensors. Raises CheckpointError."""
    manifest = read_manifest(checkpoint)
    for name, entry in manifest.files.items():
        _check_size(checkpoint / name, entry.bytes)
    for path in sorted(checkpoint.rglob("*")):
        name = path.relative_to(checkpoint).as_posix()
        if name not in manifest.files and name != MANIFEST_FILE and path.suffix in _READ_BY_LOADERS:
            raise CheckpointError(f"{path}: not in the manifest, but a loader would read it; remove it")
    return manifest


def read_manifest(checkpoint: Path) -> Manifest:
    """Read `manifest.json` and check it against itself and the folder's name. Raises CheckpointError."""
    path = checkpoint / MANIFEST_FILE
    content = _parse(path)
    try:
        files = {name: FileEntry(**entry) for name, entry in content.pop("files").items()}
        manifest = Manifest(**content, files=files)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a manifest of this program: {error}") from None
    _check_names(path, manifest)
    return manifest


def _parse(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        content = parse_json(raw)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}: the checkpoint was never finished") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error})") from None
    if not isinstance(content, dict) or "sha256" not in content or _spell(content) != raw:
        raise CheckpointError(f"{path}: damaged: not as this program writes it")
    if content.pop("sha256") != _digest(content):
        raise CheckpointError(f"{path}: damaged: its sha256 is not the one at its end")
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: written by another version of this program (want format {FORMAT})")
    return content


def _check_names(path: Path, manifest: Manifest) -> None:
    name = path.parent.name
    if name.startswith("checkpoint-") and name != f"checkpoint-{manifest.step}":
        raise CheckpointError(f"{path}: belongs to step {manifest.step}, not to {name}")
    for file in map(PurePosixPath, manifest.files):
        if file.is_absolute() or ".." in file.parts:
            raise CheckpointError(f"{path}: names {file}, which lies outside the checkpoint")


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing")
    size = path.stat().st_size
    if size != expected:
        raise CheckpointError(f"{path}: {size} bytes, the manifest says {expected}")


def _hash(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_spell(content)).hexdigest()


def _spell(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
