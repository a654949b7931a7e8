"""The objective: cross-entropy over the supervised positions of a batch, and only those.

The vocabulary is wide (151,552 for GLM-4) and few positions are supervised, so the output layer never sees the
rest. Where nothing stands between it and the loss, logits are only ever there for some rows at a time.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from finetune.data.encode import WEIGHT, Example
from finetune.model.batch import Batch, collate
from finetune.model.by_layer import ByLayerLinear
from finetune.model.cross_entropy import projected_cross_entropy, summed_cross_entropy
from finetune.model.tuned import Kind, Tuned
from finetune.model.vision import Vision

_PROBE = 8
"""Tokens, of different ids: that of the padding may have an embedding, and so logits, of zero."""


class SupervisedLoss(nn.Module):
    """A tuned model and its objective as one module: what shards or wraps the model wraps the head too.

    `flat`: the model runs FLAT attention and is told the borders; else every batch holds one conversation.
    `direct`: logits are the output layer's and nothing else (`is_direct`). `autocast_dtype`: of the arithmetic,
    where weights are kept wider. `looks_always`: the eyes of a model whose tower takes part in every forward,
    pictures or not: it learns, or its weights lie in shares that all processes gather together.
    """

    def __init__(
        self,
        tuned: Tuned,
        *,
        flat: bool,
        direct: bool = False,
        label_smoothing: float = 0.0,
        neftune_alpha: float | None = None,
        autocast_dtype: torch.dtype | None = None,
        looks_always: Vision | None = None,
    ) -> None:
        super().__init__()
        self.model = tuned.model
        self.kind: Kind = tuned.kind
        self.virtual_tokens = tuned.virtual_tokens
        self.flat = flat
        self.direct = direct
        self.label_smoothing = label_smoothing
        self.neftune_alpha = neftune_alpha
        self.autocast_dtype = autocast_dtype
        self.looks_always = looks_always

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the cross-entropy over the batch's K targets, in nats: a scalar in float32.

        Each target counts as much as the column `weight` says, or where there is none, once.
        """
        smoothing = self.label_smoothing if self.training else 0.0
        with self.autocast(batch.rows.device):
            if self.direct:
                return self._direct_loss(batch, smoothing)
            if not len(batch.targets):
                first = torch.zeros(1, dtype=torch.int64, device=batch.rows.device)
                return self._logits(batch, first).sum() * 0.0
            row_weights = batch.columns.get(WEIGHT)
            return summed_cross_entropy(self._logits(batch, batch.rows), batch.targets, smoothing, row_weights)

    @contextmanager
    def of_base(self) -> Iterator[None]:
        """While this is entered, the loss is that of the model without its adapter, prefix or prompt."""
        from finetune.model.tuning import adapter_off

        kind, virtual_tokens = self.kind, self.virtual_tokens
        self.kind, self.virtual_tokens = "full", 0
        try:
            with adapter_off(self.model):
                yield
        finally:
            self.kind, self.virtual_tokens = kind, virtual_tokens

    def logits(self, batch: Batch, rows: Tensor) -> Tensor:
        """Logits at `rows` (K,): (K, V) in the model's dtype."""
        with self.autocast(batch.rows.device):
            return self._logits(batch, rows)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The precision of forward passes."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.autocast_dtype)

    def _direct_loss(self, batch: Batch, smoothing: float) -> Tensor:
        """The loss in the place of the logits: hooks on the model's parts and results work as ever."""
        hidden: list[Tensor] = []
        row_weights = batch.columns.get(WEIGHT)

        def take(head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            hidden.append(inputs[0][0])
            return (inputs[0][:, :0],)

        def lose(head: nn.Module, inputs: tuple[Tensor], no_logits: Tensor) -> Tensor:
            weight = cast(nn.Linear, head).weight
            loss = projected_cross_entropy(hidden[0], weight, batch.targets, smoothing, row_weights)
            return loss.view(1, 1)

        head = self.model.get_output_embeddings()
        hooks = (head.register_forward_pre_hook(take), head.register_forward_hook(lose, prepend=True))
        try:
            return self._logits(batch, batch.rows)[0]
        finally:
            for hook in hooks:
                hook.remove()

    def _logits(self, batch: Batch, rows: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": batch.input_ids}
        if batch.patches is not None:
            inputs |= {"pixel_values": batch.patches, "image_grid_thw": batch.grids}
        if self.flat:
            inputs["borders"] = batch.borders
        # The base, called as a module: adapters sit in its layers, and what gathers shares hooks in here.
        tuned = self.model
        model: nn.Module = tuned if isinstance(tuned, PreTrainedModel) else tuned.get_base_model()
        if self.kind == "prompt":
            # peft puts the virtual tokens in front of the row and counts the positions itself.
            model, rows = self.model, rows + self.virtual_tokens
        else:
            inputs["position_ids"] = batch.position_ids + self.virtual_tokens
        if self.kind == "prefix" and not isinstance(self.model, PreTrainedModel):
            # peft's own forward drops position_ids, and a flat row cannot do without them.
            inputs["past_key_values"] = self.model.get_prompt(batch_size=1)
        with self._noise(batch), self._looking(batch):
            return model(**inputs, use_cache=False, logits_to_keep=rows).logits[0]

    @contextmanager
    def _looking(self, batch: Batch) -> Iterator[None]:
        """With no pictures in the batch, have the tower look at a blank one, of which nothing is used.

        It looks right behind the embedding layer, as it would at pictures: processes that gather shares of the
        weights must all do so in the same order.
        """
        if self.looks_always is None or batch.patches is not None:
            yield
            return
        with looking_at_blank(self.model.get_input_embeddings(), self.looks_always):
            yield

    @contextmanager
    def _noise(self, batch: Batch) -> Iterator[None]:
        """With NEFTune (arXiv:2310.05914), embeddings have uniform noise while this is entered in training.

        The noise is of size alpha / sqrt(L * d), L the length of the conversation itself, not of the row. It is
        added behind the embedding layer, which runs inside the model's own forward: elsewhere its weights may
        lie in shares.
        """
        if self.neftune_alpha is None or not self.training:
            yield
            return
        lengths = torch.tensor(batch.borders, device=batch.input_ids.device).diff()
        area = lengths.repeat_interleave(lengths) * self.model.config.get_text_config().hidden_size
        scale = self.neftune_alpha / area.sqrt()

        def add(module: nn.Module, given: Any, embeddings: Tensor) -> Tensor:
            noise = torch.empty_like(embeddings).uniform_(-1, 1)
            return embeddings + noise * scale.to(embeddings.dtype)[None, :, None]

        handle = self.model.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def looking_at_blank(embeddings: nn.Module, vision: Vision) -> Iterator[None]:
    """While this is entered, the next forward of `embeddings` has the tower look at a blank picture, once."""
    handles: list[RemovableHandle] = []

    def look(module: nn.Module, given: Any, words: Tensor) -> Tensor:
        handles.pop().remove()
        patches, grids = (part.to(words.device) for part in vision.blank())
        return words + (vision.features_sum(patches, grids) * 0.0).to(words.dtype)

    handles.append(embeddings.register_forward_hook(look))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def is_direct(objective: SupervisedLoss, device: torch.device) -> bool:
    """Whether the logits are the output layer's product and nothing more: no bias, adapter, cap or scale.

    Compares the two on a few tokens. An output layer whose shares are gathered by hooks of its own must
    be frozen: its gradient would go past them.
    """
    head = objective.model.get_output_embeddings()
    if type(head) not in (nn.Linear, ByLayerLinear) or head.bias is not None:
        return False
    if hasattr(head.weight, "ds_id") and head.weight.requires_grad:
        return False
    batch = collate([Example(np.arange(_PROBE, dtype=np.int32), np.ones(_PROBE, dtype=np.bool_))]).to(device)
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda head, inputs, logits: seen.append(logits[0]))
    try:
        logits = objective.logits(batch, batch.rows)
    finally:
        hook.remove()
    return len(seen) == 1 and torch.equal(seen[0], logits)
