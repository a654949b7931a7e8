"""The keys and values of answers that are being written, and attention over them.

Every row lies in a slot of its own, from the left edge on, however long the others are:

    keys (R, KV, C, D)    slot 0   [prefix × P] [prompt] [written …] [free]
                          slot 1   [prefix × P] [prompt, longer] [written …] [free]

One forward computes one flat row of tokens: first a token for each of the rows that go on, in the order of
their slots, then the whole prompts of rows that begin. Registered with transformers' attention interface under
the name SLOTS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from finetune.model.attention import flat_attention, why_not_flat

SLOTS = "finetune_slots"
_ROOM = 64
"""Slots grow by so many tokens at a time."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one forward computes: N tokens, the first `going` of which stand alone; whole prompts follow.

    slots, columns (N,) int64: where each token's keys belong; rows, width: the room that takes.
    visible (going, 1, 1, W) bool: which of the first W columns hold tokens of the row. borders: offsets of the
    prompts, counted from the first of their tokens.
    """

    slots: torch.Tensor
    columns: torch.Tensor
    rows: int
    width: int
    going: int
    visible: torch.Tensor
    borders: Sequence[int]


class Slots(Cache):
    """A cache of transformers whose rows begin and end at any time. `prefix`: virtual keys, one row of them."""

    def __init__(self, layers: int, prefix: DynamicCache | None = None) -> None:
        virtual = [None] * layers if prefix is None else [(keys, values) for keys, values, _ in prefix]
        self.of_layer = [SlotLayer(its) for its in virtual]
        super().__init__(layers=list(self.of_layer))

    def begin(self, now: Round) -> None:
        for layer in self.of_layer:
            layer.now = now

    def move(self, source: int, target: int) -> None:
        """Put the row of one slot into another."""
        for layer in self.of_layer:
            for kept in layer.kept():
                kept[target] = kept[source]

    def bytes_per_token(self) -> int:
        """Of one row, over all layers; known once a forward was run."""
        return sum(kept[0, :, 0].nbytes for layer in self.of_layer for kept in layer.kept())


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values. `virtual`: keys and values of the prefix, (1, KV, P, D) each."""

    is_sliding = False
    now: Round

    def __init__(self, virtual: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        super().__init__()
        self.virtual = virtual

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the round's keys and values, (1, KV, N, D), into their slots; returns them as they came."""
        self._make_room(key_states, value_states)
        for kept, states in zip(self.kept(), (key_states, value_states), strict=True):
            kept[self.now.slots, :, self.now.columns] = states[0].transpose(0, 1).to(kept.dtype)
        return key_states, value_states

    def kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all slots, (R, KV, C, D) each; they exist once a forward was run."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _make_room(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        rows, width = (0, 0) if self.keys is None else (self.keys.shape[0], self.keys.shape[2])
        if rows >= self.now.rows and width >= self.now.width:
            return
        shape = (max(rows, self.now.rows), max(width, -(-self.now.width // _ROOM) * _ROOM))
        virtual = (None, None) if self.virtual is None else self.virtual
        # Autocast leaves keys wider than values; attention would narrow all of them in every round.
        self.keys = _grown(self.keys, keys.to(values.dtype), shape, virtual[0])
        self.values = _grown(self.values, values, shape, virtual[1])

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self._make_room(key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def _grown(
    old: torch.Tensor | None, like: torch.Tensor, shape: tuple[int, int], virtual: torch.Tensor | None
) -> torch.Tensor:
    """Room for `shape` (rows, tokens) in which the old ones lie. Zeros: what is masked must still be finite."""
    rows, width = shape
    new = like.new_zeros(rows, like.shape[1], width, like.shape[3])
    if virtual is not None:
        new[:, :, : virtual.shape[2]] = virtual
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new


def slot_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    slots: Slots | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one round: query (1, H, N, D), key and value (1, KV, N, D); returns (1, N, H, D)."""
    if slots is None or attention_mask is not None:
        raise RuntimeError("attention over slots needs the slots, and takes no mask")
    layer = slots.of_layer[cast(int, module.layer_idx)]
    now = layer.now
    parts = []
    if now.going:
        parts.append(_go_on(query[0, :, : now.going], layer, scaling))
    if len(now.borders) > 1:
        begins = slice(now.going, None)
        keys, values = key[:, :, begins], value[:, :, begins]
        if layer.virtual is not None:
            keys = torch.cat((layer.virtual[0].to(keys.dtype), keys), dim=2)
            values = torch.cat((layer.virtual[1].to(values.dtype), values), dim=2)
        flat = flat_attention(
            module, query[:, :, begins], keys, values, None, scaling, borders=now.borders, **arguments
        )
        parts.append(flat[0])
    return torch.cat(parts, dim=1), None


def _go_on(query: torch.Tensor, layer: SlotLayer, scaling: float | None) -> torch.Tensor:
    """One token of each row against all of the row: (H, B, D) to (1, B, H, D).

    The heads that share a key are laid out as if they were queries one behind another: the same sums, without a
    copy of every key for each of them.
    """
    heads, rows, size = query.shape
    visible = layer.now.visible
    keys, values = (kept[:rows, :, : visible.shape[-1]] for kept in layer.kept())
    groups = query.transpose(0, 1).reshape(rows, keys.shape[1], -1, size)
    out = scaled_dot_product_attention(groups, keys, values, attn_mask=visible, scale=scaling)
    return out.reshape(1, rows, heads, -1)


AttentionInterface.register(SLOTS, slot_attention)


def why_no_slots(model: PreTrainedModel, longest: int) -> str | None:
    """The reason this model cannot write rows of up to `longest` tokens in slots; None when it can."""
    reason = why_not_flat(model, longest)
    if reason is not None:
        return reason
    config = model.config.get_text_config()
    layers = DynamicCache(config=config).layers
    if len(layers) != config.num_hidden_layers:
        return "its layers share keys"
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return "its layers keep more than keys and values"
    if any(0 <= layer.get_max_length() < longest for layer in layers):
        return "its layers forget keys"
    return None
