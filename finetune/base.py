"""What tells one base model from another of its shape, without reading all of it; and whose adapter this is.

    config.json, *.index.json      sha256
    each weight file               size, and a hash of a few samples spread over it
    tensors: each weight file      a hash of its header and of a sample of every tensor

The last finds a base of which only some matrices were tuned. A few rows of one tensor that differ (embeddings
of tokens) may lie beside its sample. A Hub id stands for itself.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.disk import sha256_of
from finetune.manifest import MANIFEST_FILE, read_manifest
from finetune.plain_json import parse_json

_SAMPLES, _SAMPLE_BYTES = 8, 4096
_TENSOR_BYTES = 1024
_TENSORS = "tensors"


def base_identity(model: Path | str) -> dict[str, Any]:
    """The base model as JSON, the same wherever its folder lies."""
    folder = Path(model)
    if not folder.is_dir():
        return {"id": str(model)}
    descriptions = sorted([*folder.glob("config.json"), *folder.glob("*.index.json")])
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return {
        **{path.name: sha256_of(path) for path in descriptions},
        **{path.name: f"{path.stat().st_size} bytes, samples {_sample(path)}" for path in weights},
        _TENSORS: {path.name: _tensors(path) for path in weights if path.suffix == ".safetensors"},
    }


def comparable(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """`now` without what `saved` does not tell: checkpoints of the first version have no samples of tensors."""
    return now if _TENSORS in saved else {key: value for key, value in now.items() if key != _TENSORS}


@dataclass(frozen=True, slots=True)
class OtherBase:
    """How a base is not the one that an adapter was trained on.

    weights: names of weight files that differ. described: names of files that describe the model and differ.
    unknown: one of the two is a Hub id and the other a folder, so nothing can be compared.
    """

    weights: tuple[str, ...] = ()
    described: tuple[str, ...] = ()
    unknown: bool = False

    def __str__(self) -> str:
        if self.unknown:
            return "was trained on a base given in another way (a Hub id, or a folder)"
        what = "other weights" if self.weights else "another description"
        names = ", ".join((*self.weights, *self.described))
        return f"was trained on a base with {what} than there are now ({names})"


def compare_base(adapter: Path, model: Path | str) -> OtherBase | None:
    """What is different about `model` as an adapter's base; None where nothing is, or nobody wrote it down.

    Raises CheckpointError for a damaged manifest.
    """
    if not (adapter / MANIFEST_FILE).is_file():
        return None
    saved: Mapping[str, Any] = read_manifest(adapter).identity["base"]
    now = comparable(saved, base_identity(model))
    if ("id" in saved) != ("id" in now):
        return OtherBase(unknown=True)
    differ = [name for name in dict.fromkeys([*saved, *now]) if saved.get(name) != now.get(name)]
    described = tuple(name for name in differ if name.endswith(".json"))
    weights = [name for name in differ if name not in described and name != _TENSORS]
    weights += _tensors_that_differ(saved, now)
    if not differ:
        return None
    return OtherBase(tuple(dict.fromkeys(weights)), described)


def _tensors_that_differ(saved: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = saved.get(_TENSORS, {}), now.get(_TENSORS, {})
    return (name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name))


def _sample(path: Path) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for offset in _offsets(size):
            file.seek(offset)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _offsets(size: int) -> Sequence[int]:
    last = max(0, size - _SAMPLE_BYTES)
    return [last * index // (_SAMPLES - 1) for index in range(_SAMPLES)]


def _tensors(path: Path) -> str:
    """A hash of the header and of bytes from the middle of every tensor; loading tells where one is damaged."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, path.stat().st_size))
        digest.update(header)
        for begin, end in _places(header):
            file.seek(8 + length + max(begin, (begin + end - _TENSOR_BYTES) // 2))
            digest.update(file.read(min(_TENSOR_BYTES, end - begin)))
    return digest.hexdigest()[:16]


def _places(header: bytes) -> list[tuple[int, int]]:
    """Where the tensors of a safetensors file lie behind its header, in the order of the file."""
    try:
        entries = parse_json(header)
        return sorted(tuple(entry["data_offsets"]) for name, entry in entries.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
