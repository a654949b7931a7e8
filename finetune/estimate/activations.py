"""What autograd keeps of one micro-batch: the formula of a decoder layer, tensor by tensor, in bytes per token.

The tensors are those of the code that computes a layer: transformers' modules, `model.low_rank`, our attention.
Whoever changes what they keep changes it here; `scripts/bench-memory` compares both with real runs.
"""

from collections.abc import Iterator, Mapping, Sequence

from finetune.estimate.setup import Load, Setup
from finetune.estimate.shape import is_head, is_visual

FLOAT32, NARROW = 4, 2
PICTURES_AT_HAND = 256 << 20
BLOCKWISE_LONGEST, BLOCK = 1024, 64
"""Of `model.blockwise`: tokens of a conversation up to which it is used, and of a block of queries."""

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
    norm = [shape.hidden * FLOAT32]
    if setup.method.kind == "full" and not is_lean(setup):  # its own weight learns, from what it multiplies
        norm.append(shape.hidden * setup.residual_bytes)
    return {
        "norms": norm * 2,
        "rotary": [shape.rotary * setup.residual_bytes] * 2,
        "queries": [shape.queries * narrow],
        **(_blockwise(setup, load) if is_blockwise(setup, load) else _one_by_one(setup, load)),
        "gate and up": [2 * shape.middle * narrow],
        "gated": [0 if is_lean(setup) else shape.middle * narrow],
        "inputs": list(_inputs(setup)),
    }


def is_lean(setup: Setup) -> bool:
    """Whether norms and gated layers keep less, as `model.lean` has it, and attention only its result."""
    wide = setup.compute_bytes == setup.residual_bytes == FLOAT32 and not setup.autocast
    return setup.device == "cpu" and wide and setup.sharing in ("alone", "ddp")


def is_blockwise(setup: Setup, load: Load) -> bool:
    """Whether `model.blockwise` computes the attention."""
    all_narrow = setup.compute_bytes == setup.residual_bytes == 2 and setup.method.kind != "prompt"
    return setup.device == "cpu" and all_narrow and load.longest <= BLOCKWISE_LONGEST


def _blockwise(setup: Setup, load: Load) -> Mapping[str, Sequence[float]]:
    """Keys once, a prefix's among them; of each block of queries what the softmax gave."""
    shape, narrow, prefix = setup.shape, setup.compute_bytes, setup.method.virtual_tokens
    keys = shape.keys * narrow * (1 + prefix / load.tokens)
    seen = prefix + (load.span + min(BLOCK, load.span)) / 2
    return {"keys and values": [keys, keys], "softmax": [shape.heads * narrow * seen]}


def _one_by_one(setup: Setup, load: Load) -> Mapping[str, Sequence[float]]:
    """torch's attention keeps its result; a prefix is repeated for every conversation, and needs a mask."""
    shape, narrow, prefix = setup.shape, setup.compute_bytes, setup.method.virtual_tokens
    keys = shape.keys * narrow * (1 + prefix * load.conversations / load.tokens)
    masked = setup.device == "cpu" and setup.method.kind == "prefix"
    return {
        "keys and values": [keys, keys],
        "mask": [(prefix + load.span) * narrow if masked else 0],
        "attention": [shape.queries * narrow, shape.heads * FLOAT32],
    }


def _inputs(setup: Setup) -> Iterator[float]:
    """What the matrices that learn were given, and what an adapter made of it."""
    widths = {"attention": setup.shape.hidden, "output": setup.shape.queries}
    widths |= {"middle": setup.shape.hidden, "down": setup.shape.middle}
    dropped = setup.method.kind == "lora" and setup.method.dropped
    for place, width in widths.items():
        if is_lean(setup) and not dropped and _is_kept_elsewhere(setup, place):
            continue
        for each in _copies(setup, INPUTS[place]):
            yield width * each
    if setup.method.kind == "lora":
        yield from [setup.method.r * setup.compute_bytes] * len(setup.method.adapted)


def _is_kept_elsewhere(setup: Setup, place: str) -> bool:
    """Whether lean layers make this input again, or keep it as the result of attention."""
    remade = setup.method.kind == "lora" and setup.quantization is None
    return (place == "output" and setup.method.kind in ("full", "lora")) or remade


def tower_tensors(setup: Setup) -> Mapping[str, Sequence[float]]:
    """What one layer of a vision tower that learns keeps: of each tensor the bytes per patch.

    Values are a view of what made queries and keys as well, which therefore stays beside the rotated ones.
    """
    tower, narrow = setup.shape.tower, setup.compute_bytes
    assert tower is not None
    entry = tower.hidden * setup.residual_bytes
    norm = [entry]
    if tower.gated:  # those towers have RMSNorms, which keep what they computed in float32
        norm = [tower.hidden * FLOAT32] + ([entry] if setup.method.kind == "full" else [])
    return {
        "norms": norm * 2,
        "queries, keys and values": [3 * tower.hidden * narrow] + [tower.hidden * narrow] * 2,
        "attention": [tower.hidden * narrow, tower.heads * FLOAT32],
        "feed-forward": [tower.middle * narrow] * (4 if tower.gated else 2),
        "inputs": [tower.hidden * narrow] * 3,
    }


def picture_bytes(setup: Setup, load: Load) -> int:
    """Pixels, in float32; what the tower made of them; where it learns, what all its layers keep.

    On a CPU also the pixels that are at hand for later.
    """
    tower = setup.shape.tower
    if tower is None:
        return 0
    made = setup.shape.hidden * setup.residual_bytes / tower.merge**2
    one = sum(map(sum, tower_tensors(setup).values()))
    # Of one layer, whose tensors come and go, where none learns.
    kept = one * (tower.layers if setup.method.looks else 1)
    at_hand = min(PICTURES_AT_HAND, load.more_patches * tower.pixels * FLOAT32) if setup.device == "cpu" else 0
    return int(load.patches * (tower.pixels * FLOAT32 + made + kept) + at_hand)


def _copies(setup: Setup, readers: tuple[str, ...]) -> list[float]:
    """Bytes per number of each copy that is kept of an input which `readers` share.

    Autocast casts it for every matrix, peft's own LoRA casts it to float32; dropout makes another for each.
    """
    method, narrow = setup.method, setup.compute_bytes
    learning = sum(reader in method.adapted for reader in readers)
    spoken = [module for module in setup.shape.linears if not is_visual(module)]
    present = sum(any(m.endswith(f".{reader}") for m in spoken) for reader in readers)
    if method.kind == "full":
        return [narrow] * (present if setup.autocast else 1)
    own = setup.quantization is None and not setup.autocast and setup.sharing != "zero-3"
    if method.kind == "lora" and method.dropped:
        width = narrow if own else FLOAT32
        return [width, width if setup.device == "cpu" else 1] * learning  # what is left, and the mask
    if method.kind == "lora" and not own:
        return [FLOAT32] * (learning if narrow < FLOAT32 else min(learning, 1))
    return [narrow] * min(learning, 1)


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
    largest = max((a * b for m, (a, b) in setup.shape.linears.items() if not is_head(m)), default=0)
    return int(inner + (largest * (narrow + FLOAT32) if setup.method.kind == "full" else 0))
