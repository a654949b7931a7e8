"""What autograd keeps of one micro-batch: the formula of a decoder layer, tensor by tensor, in bytes per token.

The terms are those of the code that computes a layer: transformers' modules, peft's adapters and our attention.
Whoever changes what they save changes the term here; `scripts/bench-memory` compares both with real runs.
"""

from collections.abc import Iterator, Mapping, Sequence

from finetune.estimate.setup import Load, Setup

FLOAT32 = 4
INPUTS = {
    "attention": ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"),
    "output": ("o_proj", "dense", "out_proj"),
    "middle": ("gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h"),
    "down": ("down_proj", "dense_4h_to_h"),
}
"""The four inputs of a layer's matrices, and the matrices that read each of them."""


def layer_tensors(setup: Setup, load: Load) -> Mapping[str, Sequence[float]]:
    """What one layer keeps for the backward pass: of each tensor the bytes per token, by what it is of."""
    shape, narrow = setup.shape, setup.compute_bytes
    seen = shape.keys * narrow * _seen(load, setup.method.virtual_tokens)
    norm = [shape.hidden * FLOAT32]
    if setup.method.kind == "full":  # its own weight learns, from what it was multiplied with
        norm.append(shape.hidden * setup.residual_bytes)
    return {
        "norms": norm * 2,
        "rotary": [shape.rotary * setup.residual_bytes] * 2,
        "queries": [shape.queries * narrow],
        "keys and values": [seen, seen],
        "prefix mask": [_mask_bytes(setup, load)],
        "attention": [shape.queries * narrow, shape.heads * FLOAT32],
        "gate and up": [2 * shape.middle * narrow],
        "gated": [shape.middle * narrow],
        "inputs": list(_inputs(setup)),
    }


def _seen(load: Load, virtual_tokens: int) -> float:
    """Keys for each token: a prefix is repeated for every conversation."""
    return 1 + virtual_tokens * load.conversations / load.tokens


def _mask_bytes(setup: Setup, load: Load) -> float:
    """A prefix is seen through a mask, as large as a conversation is long and once for each."""
    if setup.method.kind != "prefix":
        return 0
    return (setup.method.virtual_tokens + load.tokens / load.conversations) * setup.compute_bytes


def _inputs(setup: Setup) -> Iterator[float]:
    """What the matrices that learn were given."""
    widths = {"attention": setup.shape.hidden, "output": setup.shape.queries}
    widths |= {"middle": setup.shape.hidden, "down": setup.shape.middle}
    for place, width in widths.items():
        for each in _copies(setup, INPUTS[place]):
            yield width * each
    if setup.method.kind == "lora":
        yield from [setup.method.r * FLOAT32] * len(setup.method.adapted)


def _copies(setup: Setup, readers: tuple[str, ...]) -> list[float]:
    """Bytes per number of each copy that is kept of an input which `readers` share.

    peft casts the input of every adapter to float32; autocast casts it for every matrix.
    """
    method, narrow = setup.method, setup.compute_bytes
    learning = sum(reader in method.adapted for reader in readers)
    present = sum(any(m.endswith(f".{reader}") for m in setup.shape.linears) for reader in readers)
    if method.kind == "full":
        return [narrow] * (present if setup.autocast else 1)
    if method.kind != "lora":
        return [narrow] * min(learning, 1)
    if method.dropped:
        return [FLOAT32, 1] * learning
    return [FLOAT32] * (learning if narrow < FLOAT32 else min(learning, 1))


def activation_bytes(setup: Setup, load: Load) -> int:
    """All layers of a micro-batch, those that are computed again only by their inputs, and the last norm."""
    layer = sum(map(sum, layer_tensors(setup, load).values()))
    entry = setup.shape.hidden * setup.residual_bytes
    again = setup.recomputed_layers
    return int(load.tokens * (_layers_at_once(setup) * layer + (again + 2) * entry))


def _layers_at_once(setup: Setup) -> int:
    """Of how many layers everything is there at the worst moment.

    That is when the backward pass begins, or when it has used up the layers behind the last that is recomputed,
    and computes that one.
    """
    layers, again = setup.shape.layers, setup.recomputed_layers
    if not again:
        return layers
    behind = (layers - 1) % setup.recompute
    return max(layers - again, layers - again - behind + 1)


def small_share(setup: Setup, load: Load, limit: int) -> float:
    """Of a layer's bytes, the part in tensors of less than `limit`."""
    tensors = [each for group in layer_tensors(setup, load).values() for each in group]
    return sum(each for each in tensors if each * load.tokens < limit) / sum(tensors)


def workspace_bytes(setup: Setup, load: Load) -> int:
    """What the backward pass of one layer needs beside: gradients of the feed-forward layer's inside."""
    shape, narrow = setup.shape, setup.compute_bytes
    inner = load.tokens * (5 * shape.middle + 3 * shape.hidden) * narrow
    if setup.method.kind == "lora":
        inner += load.tokens * shape.middle * FLOAT32
    largest = max((a * b for a, b in setup.shape.linears.values()), default=0)
    return int(inner + (largest * (narrow + FLOAT32) if setup.method.kind == "full" else 0))
