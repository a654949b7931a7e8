"""What the GPU's kernel is told of a flat batch; a run compares the kernel itself, when it starts.

`reference` takes the kernel's own arguments and does by definition what its documentation says.
"""

import inspect
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen as torch_varlen
from torch.nn.functional import scaled_dot_product_attention

from finetune.model import varlen
from finetune.model.blockwise import blockwise_attention

BORDERS, HEADS, KV, SIZE = (0, 5, 6, 18), 4, 2, 8


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *given: Any, **named: Any) -> Any:
    bound = inspect.signature(torch_varlen.varlen_attn).bind(query, key, value, *given, **named).arguments
    assert bound["window_size"] == (-1, 0) and bound["enable_gqa"]
    rows = []
    ends = zip(bound["cu_seq_q"].tolist(), bound["cu_seq_k"].tolist(), strict=True)
    (q0, k0), *rest = ends
    for q1, k1 in rest:
        assert (q1 - q0 <= bound["max_q"]) and (k1 - k0 <= bound["max_k"])
        parts = [t.transpose(0, 1)[None] for t in (query[q0:q1], key[k0:k1], value[k0:k1])]
        mask = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(k1 - k0 - (q1 - q0))
        attended = scaled_dot_product_attention(*parts, mask, scale=bound["scale"], enable_gqa=True)
        rows.append(attended[0].transpose(0, 1))
        q0, k0 = q1, k1
    return torch.cat(rows)


@pytest.mark.parametrize("prefix", [0, 3])
def test_the_kernel_is_told_where_each_conversation_lies(prefix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", reference)
    torch.manual_seed(0)
    inputs = tuple(
        torch.randn(1, heads, length, SIZE).requires_grad_()
        for heads, length in ((HEADS, 18), (KV, prefix + 18), (KV, prefix + 18))
    )
    found = varlen.varlen_attention(*inputs, BORDERS, 0.3)
    expected = blockwise_attention(*inputs, BORDERS, 0.3)
    slope = torch.randn_like(expected)
    pairs = zip(
        (found, *torch.autograd.grad(found, inputs, slope)),
        (expected, *torch.autograd.grad(expected, inputs, slope)),
        strict=True,
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_offsets_are_made_once_for_all_layers() -> None:
    one = varlen.offsets_of(BORDERS, 2, torch.device("cpu"))
    assert varlen.offsets_of(BORDERS, 2, torch.device("cpu")) is one
    assert (one.queries.tolist(), one.keys.tolist(), one.longest) == ([0, 5, 6, 18], [0, 7, 10, 24], 12)
