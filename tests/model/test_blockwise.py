"""Attention in bfloat16 on a CPU: torch's, conversation by conversation, and nearer to float32."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from finetune.model.attention import flat_attention
from finetune.model.blockwise import LONGEST, blockwise_attention

BORDERS = (0, 70, 71, 135, 199, 263, 396)  # shorter than a block, one token, a block, blocks and a rest
HEADS, KV, SIZE, SCALING = 6, 2, 16, 0.2

Tensors = tuple[torch.Tensor, ...]


def made(prefix: int, dtype: torch.dtype, borders: tuple[int, ...] = BORDERS) -> Tensors:
    """Query, key and value, the same numbers whatever the dtype."""
    torch.manual_seed(0)
    shapes = [(HEADS, borders[-1]), (KV, prefix + borders[-1]), (KV, prefix + borders[-1])]
    drawn = [torch.randn(1, heads, length, SIZE).bfloat16() for heads, length in shapes]
    return tuple(tensor.to(dtype).requires_grad_() for tensor in drawn)


def one_by_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix: int) -> torch.Tensor:
    """torch's own, each conversation by itself."""
    rows = []
    for start, stop in pairwise(BORDERS):
        own = [torch.cat((t[:, :, :prefix], t[:, :, prefix + start : prefix + stop]), 2) for t in (key, value)]
        mask = torch.ones(stop - start, prefix + stop - start, dtype=torch.bool).tril(prefix)
        arguments = {"attn_mask": mask, "scale": SCALING, "enable_gqa": True}
        rows.append(scaled_dot_product_attention(query[:, :, start:stop], *own, **arguments))
    return torch.cat(rows, dim=2).transpose(1, 2)


def with_gradients(result: torch.Tensor, inputs: Tensors) -> list[torch.Tensor]:
    slope = torch.arange(result.numel()).view_as(result).cos().bfloat16().to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, inputs, slope)]


def errors(found: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    return [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]


@pytest.mark.parametrize("prefix", [0, 5])
def test_in_float32_it_is_torch_s_attention_of_each_conversation(prefix: int) -> None:
    inputs = made(prefix, torch.float32)
    found = with_gradients(blockwise_attention(*inputs, BORDERS, SCALING), inputs)
    assert max(errors(found, with_gradients(one_by_one(*inputs, prefix), inputs))) < 2e-6


@pytest.mark.parametrize("prefix", [0, 5])
def test_in_bfloat16_its_gradients_are_nearer_to_float32_than_torch_s(prefix: int) -> None:
    wide, narrow = made(prefix, torch.float32), made(prefix, torch.bfloat16)
    exact = with_gradients(one_by_one(*wide, prefix), wide)
    result, _ = flat_attention(torch.nn.Module(), *narrow, None, scaling=SCALING, borders=BORDERS)
    ours = errors(with_gradients(result, narrow), exact)
    torch_s = errors(with_gradients(one_by_one(*narrow, prefix), narrow), exact)
    assert max(ours) < 5e-3
    assert ours[2] < torch_s[2]  # keys
    assert ours[3] < torch_s[3]  # values


def test_no_conversation_sees_another() -> None:
    query, key, value = made(0, torch.bfloat16)
    before = blockwise_attention(query, key, value, BORDERS, SCALING)
    with torch.no_grad():
        key[:, :, 135:199] += 1
        value[:, :, 135:199] += 1
    changed = (blockwise_attention(query, key, value, BORDERS, SCALING) != before).any(dim=3).any(dim=2)[0]
    assert changed.nonzero()[:, 0].tolist() == list(range(135, 199))


def test_conversations_too_long_to_keep_the_softmax_of_are_torch_s() -> None:
    borders = (0, LONGEST + 1)
    inputs = made(0, torch.bfloat16, borders)
    result, _ = flat_attention(torch.nn.Module(), *inputs, None, scaling=SCALING, borders=borders)
    expected = scaled_dot_product_attention(*inputs, scale=SCALING, is_causal=True, enable_gqa=True)
    assert torch.equal(result, expected.transpose(1, 2))
