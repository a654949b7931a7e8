"""Who answers: hashes of all that decides what is written to a question, the same wherever the folders lie."""

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune.base import base_identity
from finetune.chat.template import ChatTemplate
from finetune.disk import sha256_of
from finetune.folder import Source

_IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_ADAPTER = ("adapter_config.json", "*.safetensors", "*.bin")


def author_of(
    source: Source, template: ChatTemplate, *, quantization: str | None, trust_remote_code: bool
) -> dict[str, Any]:
    """`model`, a name for people, and `answered_by`: a hash of each part, where there is such a part.

    Of the base's weights samples of every tensor are read (base.py), of all other files everything.
    """
    model = Path(source.model)
    parts = {
        "weights": base_identity(source.model),
        "adapter": _contents(source.adapter, *_ADAPTER) if source.adapter else None,
        "template": template.fingerprint,
        "image_processor": _contents(model, *_IMAGE_PROCESSOR),
        "code": _contents(model, "*.py") if trust_remote_code else None,
    }
    answered_by = {name: _hash(part) for name, part in parts.items() if part}
    return {"model": _name(source, quantization), "answered_by": answered_by}


def _name(source: Source, quantization: str | None) -> str:
    """The weights that answer: a run's name stays the same while its best checkpoint changes."""
    weights = source.adapter or source.model
    name = str(weights.absolute() if isinstance(weights, Path) else weights)
    return f"{name} in {quantization}" if quantization else name


def _contents(folder: Path, *patterns: str) -> dict[str, str]:
    """The sha256 of each file of these patterns that is there."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return {path.name: sha256_of(path) for path in sorted(found)}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
