"""Examples to tensors: conversations end to end in one row, with no padding and no mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.data.encode import Example
from finetune.errors import ModelError
from finetune.model.vision import Vision


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch, T tokens of C conversations, K of which the model must predict.

    input_ids (1, T) int64; position_ids (1, T) int64, from 0 in every conversation; borders: C + 1 offsets
    from 0 to T; rows (K,) int64: the positions whose next token is supervised; targets (K,) int64: that token.

    With pictures: position_ids (3, 1, T), where they stand in time, rows and columns; patches (P, D) float32 of
    all pictures end to end; grids (N, 3) int64 of each of them.

    columns: what examples carry besides tokens, (K,) each, by name (`Example.columns`).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    borders: tuple[int, ...]
    rows: torch.Tensor
    targets: torch.Tensor
    patches: torch.Tensor | None = None
    grids: torch.Tensor | None = None
    columns: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            self.input_ids.to(device, non_blocking=True),
            self.position_ids.to(device, non_blocking=True),
            self.borders,
            self.rows.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            None if self.patches is None else self.patches.to(device, non_blocking=True),
            None if self.grids is None else self.grids.to(device, non_blocking=True),
            {name: column.to(device, non_blocking=True) for name, column in self.columns.items()},
        )


def collate(examples: Sequence[Example], vision: Vision | None = None) -> Batch:
    """Lay the examples end to end. The first token of a conversation is never a target: nothing precedes it.

    No examples (a rank that only keeps step with the others): one token and nothing to predict.
    `vision`: of the model, where examples may have pictures. Raises as `Vision.patches` does.
    """
    if not examples:
        examples = [Example(np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.bool_))]
    lengths = [len(example.input_ids) for example in examples]
    ids = np.concatenate([example.input_ids for example in examples]).astype(np.int64)
    learn = np.concatenate([example.loss_mask for example in examples])
    borders = np.cumsum([0, *lengths])
    learn[borders[:-1]] = False
    targets_at = np.flatnonzero(learn)
    positions = np.concatenate([np.arange(length) for length in lengths])
    batch = Batch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        borders=tuple(int(border) for border in borders),
        rows=torch.from_numpy(targets_at - 1),
        targets=torch.from_numpy(ids[targets_at]),
        columns=_columns(examples, targets_at),
    )
    return _with_pictures(batch, examples, vision) if any(example.pictures for example in examples) else batch


def _columns(examples: Sequence[Example], targets_at: NDArray[np.int64]) -> Mapping[str, torch.Tensor]:
    """What the examples carry, at the targets. All examples of a data set have the same columns."""
    return {
        name: torch.from_numpy(np.concatenate([example.columns[name] for example in examples])[targets_at])
        for name in examples[0].columns
    }


def _with_pictures(batch: Batch, examples: Sequence[Example], vision: Vision | None) -> Batch:
    if vision is None:
        raise ModelError("these examples have pictures, and the model sees none")
    patches, grids = vision.patches([picture for example in examples for picture in example.pictures])
    own = grids.split([len(example.pictures) for example in examples])
    conversations = [batch.input_ids[0, start:end] for start, end in pairwise(batch.borders)]
    positions = [vision.positions(ids, its) for ids, its in zip(conversations, own, strict=True)]
    return replace(batch, position_ids=torch.cat(positions, dim=1)[:, None], patches=patches, grids=grids)


def require_known_ids(largest: int, embeddings: int) -> None:
    """Raises ModelError for a token id that the model has no embedding for."""
    if largest >= embeddings:
        raise ModelError(
            f"token {largest}: the model has embeddings for 0 to {embeddings - 1}; its tokenizer knows more "
            "words: use the tokenizer that the model came with, or resize the model's embeddings"
        )
