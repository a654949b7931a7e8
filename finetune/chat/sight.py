"""How a vision checkpoint takes a picture: the token that stands for it, and the patches it is cut into.

Sizes only, no pixels: from the checkpoint's own JSON files, so that a conversation's true length is known
before a model is loaded. What the image processor makes of the pixels must agree (model/vision.py compares).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.plain_json import read_json

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_SLIMMEST = 200  # times longer than wide, at most: what these processors take

_CUT: Mapping[str, int] = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
"""What an image processor is told of patches, and what it does untold."""
_TOWER_NAMES: Mapping[str, str] = dict(
    zip(_CUT, ("patch_size", "spatial_merge_size", "temporal_patch_size"), strict=True)
)


@dataclass(frozen=True, slots=True)
class _Family:
    """An image processor's defaults: the least and the most pixels of a picture, and how it counts them."""

    least: int
    most: int
    counts_frames: bool
    """Pixels are those of all `frames`, and a picture narrower than a patch is first made larger."""


_FAMILIES: Mapping[str, _Family] = {
    "Glm4vImageProcessor": _Family(112 * 112, 28 * 28 * 15000, True),
    "Glm46VImageProcessor": _Family(112 * 112, 28 * 28 * 15000, True),
    "Qwen2VLImageProcessor": _Family(56 * 56, 28 * 28 * 1280, False),
}


@dataclass(frozen=True, slots=True)
class Sight:
    """A checkpoint's way with pictures. `token`: the id that stands for `merge` x `merge` patches of one.

    side: of a patch, in pixels. frames: how often a picture stands in a patch (they are made for films).
    least, most: pixels of a picture, between which it is scaled. folder: where the image processor's files lie.
    """

    token: int
    side: int
    merge: int
    frames: int
    least: int
    most: int
    counts_frames: bool
    folder: Path = field(default=Path(), compare=False, repr=False)

    def at_most(self, tokens: int) -> "Sight":
        """The same, but larger pictures are scaled down to so many tokens; very slim ones keep more."""
        frames = self.frames if self.counts_frames else 1
        most = min(self.most, tokens * frames * (self.side * self.merge) ** 2)
        return replace(self, least=min(self.least, most), most=most)

    @property
    def size(self) -> dict[str, int]:
        """The bounds of a picture's pixels, as an image processor is told them."""
        return {"shortest_edge": self.least, "longest_edge": self.most}

    def patches(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of so many pixels. Raises ValueError for one too slim.

        Source: the `smart_resize` of transformers' image processors.
        """
        cell, given = self.side * self.merge, f"{width} x {height} pixels"
        if self.counts_frames and min(width, height) < cell:
            scale = max(cell / height, cell / width)
            width, height = int(width * scale), int(height * scale)
        if max(width, height) / min(width, height) > _SLIMMEST:
            raise ValueError(f"{given}: one side is more than {_SLIMMEST} times the other")
        rows, columns = (round(side / cell) * cell for side in (height, width))
        frames = self.frames if self.counts_frames else 1
        if frames * rows * columns > self.most:
            shrink = math.sqrt(frames * height * width / self.most)
            rows, columns = (max(cell, math.floor(side / shrink / cell) * cell) for side in (height, width))
        elif frames * rows * columns < self.least:
            grow = math.sqrt(self.least / (frames * height * width))
            rows, columns = (math.ceil(side * grow / cell) * cell for side in (height, width))
        return rows // self.side, columns // self.side

    def tokens(self, width: int, height: int) -> int:
        """How many tokens a picture of so many pixels takes."""
        rows, columns = self.patches(width, height)
        return rows * columns // self.merge**2


def read_sight(model: Path, processor: Path | None = None) -> Sight | None:
    """How the checkpoint in `model` sees; None for a model of text, or one whose way is not known here.

    processor: another folder, which tells how images are processed, if it does (an adapter's own).
    Raises ModelError where the JSON files are damaged.
    """
    told = processor is not None and any((processor / name).is_file() for name in PROCESSOR_FILES)
    folder = processor if processor is not None and told else model
    config = _read(model / "config.json")
    token = config.get("image_token_id")
    settings = processor_settings(folder)
    family = _FAMILIES.get(processor_kind(settings))
    if not isinstance(token, int) or family is None:
        return None
    try:
        least, most = bounds(settings)
        if settings.get("do_resize") is False:
            raise ValueError(
                "do_resize is false; pictures are only cut after they were scaled to whole patches"
            )
        side, merge, frames = cut = tuple(settings.get(name, usual) for name, usual in _CUT.items())
        _refuse_misfit(config, cut)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{_processor_file(folder)}: cannot be used: {error}") from None
    return Sight(token, side, merge, frames, least, most, family.counts_frames, folder)


def refuse_glm_4v_9b(model: str | Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError where `config` (of config.json) is that of the old glm-4v-9b, code trusted or not."""
    if config.get("model_type") == "chatglm" and "vision_config" in config:
        raise ModelError(
            f"{model}: is a glm-4v-9b, which transformers has no class for and whose own code is written for "
            "transformers 4: use GLM-4.1V-9B-Thinking or GLM-4.6V-Flash (docs/glm-4v-9b.md says why)"
        )


def _refuse_misfit(config: Mapping[str, Any], cut: tuple[Any, ...]) -> None:
    """Raises ValueError where pictures would be cut otherwise than the model's tower takes them."""
    tower = config.get("vision_config") or {}
    for (name, its_name), size in zip(_TOWER_NAMES.items(), cut, strict=True):
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} is {size!r}; expected a whole number, 1 or more")
        if tower.get(its_name, size) != size:
            reason = (
                f"{name} is {size}, and the model was made for {tower[its_name]} (vision_config.{its_name})"
            )
            raise ValueError(f"{reason}; copy the file again from the base model")


def _processor_file(folder: Path) -> Path:
    return next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), folder)


def bounds(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The least and the most pixels that an image processor's settings allow a picture. Raises ValueError."""
    family, size = _FAMILIES[processor_kind(settings)], settings.get("size") or {}
    least = settings.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("longest_edge")
    if size and not (least or most):
        raise ValueError(f"size has {', '.join(size)}; expected shortest_edge and longest_edge, in pixels")
    least, most = int(least or family.least), int(most or family.most)
    if least > most:
        raise ValueError(f"a picture may have {least:,} pixels at least, and {most:,} at most")
    return least, most


def processor_kind(settings: Mapping[str, Any]) -> str:
    """The class of an image processor, without the ending that names how it computes."""
    return str(settings.get("image_processor_type", "")).removesuffix("Fast").removesuffix("Pil")


def processor_settings(folder: Path) -> Mapping[str, Any]:
    """What the checkpoint says of its image processor; nothing where it has none."""
    alone, joint = (_read(folder / name) for name in PROCESSOR_FILES)
    inner = joint.get("image_processor")
    return alone or (inner if isinstance(inner, dict) else {})


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = read_json(file)
    except ValueError as error:
        raise ModelError(f"{file}: damaged: {error}; copy it again from the base model") from None
    return content if isinstance(content, dict) else {}
