"""A vision model's eyes: pictures to patches, by the checkpoint's own image processor, and where they stand.

    pictures --threads--> patches (P, D), kept while they fit into a byte budget --collate--> Batch

A token of a picture has three positions (time, row, column); those of a conversation are the model's own
`get_rope_index`, asked for each conversation by itself, so that none depends on its neighbours in a flat row.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.chat.sight import Sight
from finetune.config.modules import is_in
from finetune.data.images.picture import Picture
from finetune.data.images.pixels import pixels
from finetune.errors import ModelError

SEEING = ("glm4v", "glm46v", "glm4v_moe", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
"""The models whose pictures are understood here, by model_type."""

BUDGET = 256 * 2**20
"""Bytes of patches that are kept at hand, unless a micro-batch needs more."""
_THREADS = 4
_CHANNELS = 3


class Vision:
    """What a batch with pictures needs of its model. Safe to use from several threads.

    base: a model with a tower. sight: of its checkpoint. budget: bytes of patches to keep.
    """

    def __init__(self, base: PreTrainedModel, sight: Sight, budget: int = BUDGET) -> None:
        self.sight = sight
        self.budget = budget
        self._model = cast(Any, base.model)  # without the output layer: tower and language model
        self._processor = _processor(sight)
        self._pool = ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0))), "pictures")
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Future[Tensor], int]] = OrderedDict()  # the least lately used first
        self._held = 0  # bytes of all that is kept

    def expect(self, pictures: Iterable[Picture]) -> None:
        """Begin to process pictures that will be asked for, in this order, as many as the budget holds."""
        room = self.budget
        for picture in dict.fromkeys(pictures):
            room -= self._bytes(picture)
            if room < 0:
                return
            self._ask(picture)

    def patches(self, pictures: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """Patches (P, D) float32 of the pictures end to end, and grids (N, 3) int64: frames, rows, columns.

        Raises DataError for a file that has changed or is gone, ModelError where the processor and `sight`
        do not agree.
        """
        asked = [self._ask(picture) for picture in pictures]
        patches = torch.cat([one.result() for one in asked])
        with self._lock:
            self._forget()
        return patches, self.grids(pictures)

    def grids(self, pictures: Sequence[Picture]) -> Tensor:
        """Frames, rows and columns of patches of each picture, (N, 3) int64."""
        grids = [(1, *self.sight.patches(picture.width, picture.height)) for picture in pictures]
        return torch.tensor(grids, dtype=torch.int64).view(-1, 3)

    def blank(self) -> tuple[Tensor, Tensor]:
        """The smallest picture there is, black: patches and grid as above."""
        sight = self.sight
        width = _CHANNELS * sight.frames * sight.side**2
        return torch.zeros(sight.merge**2, width), torch.tensor([[1, sight.merge, sight.merge]])

    def positions(self, ids: Tensor, grids: Tensor) -> Tensor:
        """Of one conversation: ids (T,) int64, the grids of its pictures (N, 3); (3, T) int64."""
        kinds = (ids == self.sight.token).to(torch.int32)
        found, _ = self._model.get_rope_index(
            ids[None], mm_token_type_ids=kinds[None], image_grid_thw=grids if len(grids) else None
        )
        return cast(Tensor, found[:, 0])

    def features_sum(self, patches: Tensor, grids: Tensor) -> Tensor:
        """The sum of all that the tower hands on, a scalar: every weight of it has a part in it."""
        seen = self._model.get_image_features(patches, grids, return_dict=True)
        levels = (seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ()))
        return torch.stack([part.float().sum() for level in levels for part in level]).sum()

    def _bytes(self, picture: Picture) -> int:
        sight = self.sight
        rows, columns = sight.patches(picture.width, picture.height)
        return rows * columns * _CHANNELS * sight.frames * sight.side**2 * 4

    def _ask(self, picture: Picture) -> "Future[Tensor]":
        with self._lock:
            asked, size = self._taken(picture.sha256) or (None, 0)
            if asked is None or (asked.done() and asked.exception() is not None):
                asked, size = self._pool.submit(self._process, picture), self._bytes(picture)
            self._kept[picture.sha256] = asked, size
            self._held += size
            self._forget()
        return asked

    def _taken(self, name: str) -> "tuple[Future[Tensor], int] | None":
        """What is kept by this name, no longer kept."""
        kept = self._kept.pop(name, None)
        self._held -= 0 if kept is None else kept[1]
        return kept

    def _forget(self) -> None:
        """Let go of what was not used for longest; what is being processed stays.

        Looks at what it lets go, and no further: it runs for every picture, and there may be very many.
        """
        while self._held > self.budget:
            name, (asked, _) = next(iter(self._kept.items()))
            if not asked.done():
                return
            self._taken(name)

    def _process(self, picture: Picture) -> Tensor:
        made = self._processor(images=[pixels(picture)], return_tensors="pt")
        grid = tuple(made["image_grid_thw"][0].tolist())
        expected = (1, *self.sight.patches(picture.width, picture.height))
        if grid != expected:
            raise ModelError(
                f"{picture.path}: the model's image processor cuts it into {grid} patches, and it was counted "
                f"as {expected}; this is a defect of ours, or of the checkpoint's preprocessor_config.json"
            )
        return cast(Tensor, made["pixel_values"])


def sees(base: PreTrainedModel) -> bool:
    """Whether pictures can be shown to a model."""
    return base.config.model_type in SEEING


def tower_learns(trainable: Iterable[tuple[str, nn.Parameter]], part: str = "vision") -> bool:
    """Whether a weight of tower or projector, or of one `part` of `PARTS`, is among those that learn."""
    return any(is_in(name, part) for name, _ in trainable)


def vision_of(base: PreTrainedModel, sight: Sight | None) -> Vision | None:
    """The eyes of a model, if it has any."""
    return Vision(base, sight) if sight is not None and sees(base) else None


def require_vision(base: PreTrainedModel, sight: Sight | None) -> Vision:
    """The eyes of a model that is asked about pictures. Raises ModelError where it has none."""
    vision = vision_of(base, sight)
    if vision is None:
        raise ModelError(f"{type(base).__name__} sees no pictures, and is asked about some")
    return vision


def _processor(sight: Sight) -> Any:
    from transformers import AutoImageProcessor  # a second, which only models that see need

    try:
        # PIL computes the same everywhere; what torchvision makes of a picture differs by its version.
        made = AutoImageProcessor.from_pretrained(
            sight.folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{sight.folder}: its image processor cannot be loaded: {error}") from error
    made.size = sight.size
    return made
