"""The model of a checkpoint, whoever holds it: files that plain peft and transformers load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor

from finetune.model.save import save_prompt, save_streamed, save_tuned
from finetune.model.tuned import Tuned
from finetune.train.checkpoint.state import Parts, put_together
from finetune.train.parallel.back_end import BackEnd


class ModelFiles(Protocol):
    """A model that is about to be written by one process.

    `tensors`: what all processes gather for it, in the order in which it is written.
    """

    tensors: Mapping[str, Tensor | Parts]

    def write(self, folder: Path) -> None: ...


def model_files(tuned: Tuned, back_end: BackEnd) -> ModelFiles:
    """All processes call it at once."""
    if not back_end.shares:
        return _Whole(tuned)
    if tuned.kind in ("prefix", "prompt"):
        return _SharedPrompt(tuned)
    trainable = back_end.holder.parameters()
    if tuned.kind == "adapter":
        return _SharedAdapter(tuned, trainable)
    everything = dict(tuned.model.named_parameters())  # a tied weight once
    saved = tuned.model.state_dict().keys()
    buffers = {name: buffer for name, buffer in tuned.model.named_buffers() if name in saved}
    frozen = {name: back_end.whole(p) for name, p in everything.items() if name not in trainable}
    return _SharedModel(tuned, {**trainable, **frozen, **buffers})


class _Whole:
    def __init__(self, tuned: Tuned) -> None:
        self._tuned = tuned
        self.tensors: Mapping[str, Tensor | Parts] = {}

    def write(self, folder: Path) -> None:
        save_tuned(self._tuned, folder)


class _SharedAdapter:
    def __init__(self, tuned: Tuned, tensors: Mapping[str, Tensor | Parts]) -> None:
        self._tuned, self.tensors = tuned, tensors

    def write(self, folder: Path) -> None:
        weights = {name: put_together(tensor) for name, tensor in self.tensors.items()}
        save_tuned(self._tuned, folder, weights)


class _SharedPrompt:
    """Its embeddings are what an encoder computes, and that runs in all processes at once: at birth, here."""

    def __init__(self, tuned: Tuned) -> None:
        assert isinstance(tuned.model, PeftModel)
        self._tuned = tuned
        self.tensors: Mapping[str, Tensor | Parts] = {}
        with torch.no_grad():
            self._embeddings = tuned.model.get_prompt_embedding_to_save("default").float()

    def write(self, folder: Path) -> None:
        save_prompt(self._tuned, folder, self._embeddings)


class _SharedModel:
    def __init__(self, tuned: Tuned, tensors: Mapping[str, Tensor | Parts]) -> None:
        self._tuned, self.tensors = tuned, tensors

    def write(self, folder: Path) -> None:
        sizes = {name: tensor.shape.numel() for name, tensor in self.tensors.items()}
        streamed = ((name, put_together(tensor)) for name, tensor in self.tensors.items())
        save_streamed(self._tuned, folder, sizes, streamed)
