"""docs/glm-4v-9b.md: its table of weights adds up, and renames a model without changing what it says."""

import re
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu
from transformers import GlmConfig, GlmForCausalLM
from transformers.models.glm4v.modeling_glm4v import Glm4vVisionPatchMerger

ROWS = [
    (re.findall("`(.*?)`", old)[0], [int(n) for n in shape.split(" x ")], re.findall("`(.*?)`", new))
    for old, shape, new in re.findall(
        r"^\| (`transformer\S+) \| ([\dx ]+) \| (.*) \|$", Path("docs/glm-4v-9b.md").read_text(), re.M
    )
]
HIDDEN, HEADS, GROUPS, SIZE, MIDDLE, WORDS, EPS = 16, 4, 2, 8, 24, 20, 1.5625e-07
Weights = dict[str, Tensor]


@pytest.mark.parametrize(
    ("part", "layers", "count"),
    [
        ("encoder.layers.", 40, 8_158_433_280),
        ("vision.transformer.layers.", 63, 4_279_387_392),
        ("", 1, 1_468_500_224),
    ],
)
def test_the_shapes_add_up_to_the_parameters_of_the_checkpoint(part: str, layers: int, count: int) -> None:
    chosen = [shape for old, shape, _ in ROWS if (f"{part}{{i}}" in old if part else "{i}" not in old)]
    assert layers * sum(map(prod, chosen)) == count


def test_renamed_weights_say_the_same_where_the_tokens_of_a_picture_share_a_position() -> None:
    old = random_weights({"151552": WORDS, "4096": HIDDEN, "27392": 2 * MIDDLE, "13696": MIDDLE}, "encoder")
    positions = torch.tensor([[0, 1, 2, 3, 3, 3, 3, 4, 5, 6]])
    seen = torch.randn(1, positions.shape[1], HIDDEN)
    shape = GlmConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=MIDDLE, num_hidden_layers=2, head_dim=SIZE,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, rms_norm_eps=EPS, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        pad_token_id=0,
    )  # fmt: skip
    model = GlmForCausalLM(shape).eval()
    model.load_state_dict({k.replace("language_model.", ""): w for k, w in renamed(old).items()})
    with torch.no_grad():
        found = model(inputs_embeds=seen, position_ids=positions).logits
    torch.testing.assert_close(found, as_it_was(old, seen, positions), atol=1e-5, rtol=1e-5)
    apart = as_it_was(old, seen, torch.arange(10)[None])
    assert (found - apart).abs().max() > 1e-3, "the positions must matter"


def test_the_projector_is_the_one_that_glm_4_1v_has() -> None:
    old = random_weights({"4096": HIDDEN, "13696": MIDDLE}, "vision.linear_proj")
    merger = Glm4vVisionPatchMerger(HIDDEN, MIDDLE, "silu")
    merger.load_state_dict({k.removeprefix("model.visual.merger."): w for k, w in renamed(old).items()})
    seen = torch.randn(5, HIDDEN)
    at = {name.removeprefix("transformer.vision.linear_proj."): weight for name, weight in old.items()}
    norm = at["norm1.weight"], at["norm1.bias"]
    inner = gelu(layer_norm(linear(seen, at["linear_proj.weight"]), (HIDDEN,), *norm, eps=1e-5))
    gated = silu(linear(inner, at["gate_proj.weight"])) * linear(inner, at["dense_h_to_4h.weight"])
    with torch.no_grad():
        torch.testing.assert_close(merger(seen), linear(gated, at["dense_4h_to_h.weight"]))


def random_weights(sizes: dict[str, int], part: str) -> Weights:
    """A small model of two layers under the old names: of `part`, and of embeddings and head with `encoder`."""
    torch.manual_seed(0)
    queries = {"4608": (HEADS + 2 * GROUPS) * SIZE}
    found = {}
    for old, shape, _ in ROWS:
        if f".{part}." not in old and not (part == "encoder" and "vision" not in old):
            continue
        small = [(sizes | queries)[str(n)] for n in shape]
        if old.endswith("self_attention.dense.weight"):
            small = [HIDDEN, HEADS * SIZE]
        for i in range(2 if "{i}" in old else 1):
            found[old.format(i=i)] = torch.randn(small) / 2
    return found


def renamed(weights: Weights) -> Weights:
    """The table, applied: three new names take queries', keys' and values' rows of the old tensor."""
    found = {}
    for old, _, new in ROWS:
        for i in range(2 if "{i}" in old else 1):
            if (tensor := weights.get(old.format(i=i))) is None:
                continue
            rows = [HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE] if len(new) == 3 else [len(tensor)]
            names = (name.format(i=i) for name in new)
            found |= dict(zip(names, tensor.split(rows), strict=True))
    return found


def as_it_was(w: Weights, seen: Tensor, positions: Tensor) -> Tensor:
    """Logits under the old names. `seen` (1, T, HIDDEN): embeddings, those of a picture among them."""
    for i in range(2):
        at = {k.removeprefix(f"transformer.encoder.layers.{i}."): v for k, v in w.items()}
        inner = rms(seen, at["input_layernorm.weight"])
        fused = linear(
            inner, at["self_attention.query_key_value.weight"], at["self_attention.query_key_value.bias"]
        )
        heads = fused.unflatten(-1, (-1, SIZE)).transpose(1, 2)
        q, k, v = heads.split([HEADS, GROUPS, GROUPS], dim=1)
        q, k = turned(q, positions), turned(k, positions)
        k, v = (x.repeat_interleave(HEADS // GROUPS, dim=1) for x in (k, v))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        seen = seen + linear(mixed, at["self_attention.dense.weight"])
        gate, up = linear(
            rms(seen, at["post_attention_layernorm.weight"]), at["mlp.dense_h_to_4h.weight"]
        ).chunk(2, -1)
        seen = seen + linear(silu(gate) * up, at["mlp.dense_4h_to_h.weight"])
    final = rms(seen, w["transformer.encoder.final_layernorm.weight"])
    return linear(final, w["transformer.output_layer.weight"])


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + EPS).sqrt()


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """The first half of each head, its neighbours as complex numbers, turned by their position."""
    half, rest = x.chunk(2, dim=-1)
    speeds = 10000.0 ** -(torch.arange(0, SIZE // 2, 2) / (SIZE // 2))
    angles = positions[:, None, :, None] * speeds
    pairs = torch.view_as_complex(half.unflatten(-1, (-1, 2)).contiguous())
    moved = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    return torch.cat((moved, rest), dim=-1)
