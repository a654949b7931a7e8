"""Causal attention over a flat batch on a GPU: torch's FlashAttention for rows of several conversations."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

CAUSAL = (-1, 0)  # a window over everything before, and nothing behind


class Offsets(NamedTuple):
    """Where conversations begin and end among the queries, and behind prefixes of their own among the keys."""

    queries: Tensor
    """(C + 1,) int32."""
    keys: Tensor
    """(C + 1,) int32."""
    longest: int
    """Queries of a conversation."""
    order: Tensor | None
    """(C * P + T,) int64: for each conversation the keys of the prefix, then its own; None without prefix."""


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, borders: Sequence[int], scaling: float
) -> Tensor:
    """Attention within each conversation of a row. Arguments and result are those of `flat_attention`.

    Behind a prefix, a conversation has more keys than queries; the kernel aligns the last ones.
    """
    prefix = key.shape[2] - query.shape[2]
    offsets = offsets_of(tuple(borders), prefix, query.device)
    if offsets.order is not None:
        key, value = key.index_select(2, offsets.order), value.index_select(2, offsets.order)
    rows: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        offsets.queries,
        offsets.keys,
        offsets.longest,
        prefix + offsets.longest,
        scale=scaling,
        window_size=CAUSAL,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    attended: Tensor = rows[None]
    return attended


@lru_cache(maxsize=8)
def offsets_of(borders: tuple[int, ...], prefix: int, device: torch.device) -> Offsets:
    """Made once for a micro-batch and used by all its layers."""
    queries = torch.tensor(borders, dtype=torch.int32)
    keys = queries + prefix * torch.arange(len(borders), dtype=torch.int32)
    order = None
    if prefix:
        shared = torch.arange(prefix)
        own = [torch.arange(prefix + start, prefix + stop) for start, stop in pairwise(borders)]
        order = torch.cat([part for one in own for part in (shared, one)]).to(device)
    return Offsets(queries.to(device), keys.to(device), int(queries.diff().max()), order)
