"""What autograd keeps of one micro-batch: the formula of a decoder layer, term by term, in bytes per token.

The terms are those of the code that computes a layer: transformers' modules, peft's adapters and our attention.
Whoever changes what they save changes the term here; `scripts/bench-memory` compares both with real runs.
"""

from collections.abc import Mapping

from finetune.estimate.setup import Load, Setup

FLOAT32 = 4
INPUTS = {
    "attention": ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"),
    "output": ("o_proj", "dense", "out_proj"),
    "middle": ("gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h"),
    "down": ("down_proj", "dense_4h_to_h"),
}
"""The four inputs of a layer's matrices, and the matrices that read each of them."""


def layer_bytes(setup: Setup, load: Load) -> Mapping[str, float]:
    """Bytes per token that one layer keeps for the backward pass, by what they are of."""
    shape, narrow = setup.shape, setup.compute_bytes
    full = setup.method.kind == "full"
    return {
        "norms": 2 * shape.hidden * (FLOAT32 + (setup.residual_bytes if full else 0)),
        "rotary": 2 * shape.rotary * setup.residual_bytes,
        "queries": shape.queries * narrow,
        "keys and values": 2 * shape.keys * narrow * _seen(load, setup.method.virtual_tokens),
        "prefix mask": _mask_bytes(setup, load),
        "attention": shape.queries * narrow + shape.heads * FLOAT32,
        "gate and up": 2 * shape.middle * narrow,
        "gated": shape.middle * narrow,
        "inputs": _inputs(setup),
    }


def _seen(load: Load, virtual_tokens: int) -> float:
    """Keys for each token: a prefix is repeated for every conversation."""
    return 1 + virtual_tokens * load.conversations / load.tokens


def _mask_bytes(setup: Setup, load: Load) -> float:
    """A prefix is seen through a mask, as large as a conversation is long and once for each."""
    if setup.method.kind != "prefix":
        return 0
    return (setup.method.virtual_tokens + load.tokens / load.conversations) * setup.compute_bytes


def _inputs(setup: Setup) -> float:
    """What the matrices that learn were given."""
    widths = {"attention": setup.shape.hidden, "output": setup.shape.queries}
    widths |= {"middle": setup.shape.hidden, "down": setup.shape.middle}
    return sum(width * _copies(setup, INPUTS[place]) for place, width in widths.items())


def _copies(setup: Setup, readers: tuple[str, ...]) -> float:
    """Bytes kept for each number of an input that `readers` share.

    peft casts the input of every adapter to float32; autocast casts it for every matrix.
    """
    method, narrow = setup.method, setup.compute_bytes
    learning = sum(reader in method.adapted for reader in readers)
    present = sum(any(m.endswith(f".{reader}") for m in setup.shape.linears) for reader in readers)
    if method.kind == "full":
        return narrow * (present if setup.autocast else 1)
    if method.kind != "lora" or not learning:
        return narrow * min(learning, 1)
    if method.dropped:
        return (FLOAT32 + 1) * learning
    return FLOAT32 * (learning if narrow < FLOAT32 else 1)


def activation_bytes(setup: Setup, load: Load) -> int:
    """All layers of a micro-batch, those that are computed again only by their inputs, and the last norm."""
    layer = sum(layer_bytes(setup, load).values())
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


def workspace_bytes(setup: Setup, load: Load) -> int:
    """What the backward pass of one layer needs beside: gradients of the feed-forward layer's inside."""
    shape, narrow = setup.shape, setup.compute_bytes
    inner = load.tokens * (5 * shape.middle + 3 * shape.hidden) * narrow
    if setup.method.kind == "lora":
        inner += load.tokens * shape.middle * FLOAT32
    largest = max((a * b for a, b in setup.shape.linears.values()), default=0)
    return int(inner + (largest * (narrow + FLOAT32) if setup.method.kind == "full" else 0))
