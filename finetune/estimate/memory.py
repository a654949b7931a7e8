"""The memory of a run by part: arithmetic over a Setup and the largest micro-batch. Bytes of one process."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.estimate.activations import (
    FLOAT32,
    NARROW,
    activation_bytes,
    is_lean,
    picture_bytes,
    small_share,
    workspace_bytes,
)
from finetune.estimate.setup import Load, Setup
from finetune.estimate.shape import DTYPE_BYTES, is_head, is_visual

CUDA_CONTEXT = 600_000_000
"""On a GPU, before any weight."""

LOADED_LATER, NARROW_PRODUCTS = 25_000_000, 60_000_000
"""Of the libraries, with the first model and its first products; more where these are in bfloat16: measured."""

HEAD_CHUNK_BYTES: Mapping[str, int] = {"cpu": 64 << 20, "cuda": 256 << 20}
"""Of `model.cross_entropy`: the most that logits take at once."""

MOMENTS: Mapping[str, float] = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_8bit": 2.1,
    "adamw_bnb_8bit": 2.1,
    "paged_adamw_8bit": 2.1,
    "sgd": 0,
    "adafactor": 0.1,
    "adagrad": 4,
    "rmsprop": 4,
}
"""Bytes that an optimizer remembers for each number that learns; 8-bit ones with the scales of their blocks."""

MAPPED_BYTES = 32 * 2**20
"""glibc gives a piece of this size or more back at once when it is freed; smaller ones share a heap."""

HOLES, HOLES_RECOMPUTED, HOLES_REMADE = 0.28, 0.6, 0.65
"""Bytes of holes in that heap for each in use: measured; more where all layers are recomputed, or inputs of
LoRA are made again, which therefore come and go between what is kept."""

_QUANTIZED: Mapping[str, float] = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""Bytes per weight: nf4 has a scale of one byte for 64 of them, and a float32 for 256 of these."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part, in the order in which they are shown."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def memory_of(setup: Setup, load: Load) -> Memory:
    """What one process holds at its peak: in the backward pass of the largest micro-batch."""
    parts = {
        "weights": _weight_bytes(setup),
        "working copies": _copy_bytes(setup),
        "gradients": _gradient_bytes(setup, load),
        "optimizer": int(_remembered(setup) * setup.method.trainable / _shared_by(setup, 1)),
        "activations": activation_bytes(setup, load),
        "pictures": picture_bytes(setup, load),
        "backward pass": workspace_bytes(setup, load),
        "head": _head_bytes(setup, load),
        "exchange": _exchange_bytes(setup),
        "allocator": _allocator_bytes(setup, load),
        "libraries": _library_bytes(setup),
    }
    return Memory({name: size for name, size in parts.items() if size})


def _library_bytes(setup: Setup) -> int:
    if setup.device != "cpu":
        return CUDA_CONTEXT
    narrow = setup.compute_bytes < FLOAT32
    return setup.library_bytes + LOADED_LATER + (NARROW_PRODUCTS if narrow else 0)


def _shared_by(setup: Setup, stage: int) -> int:
    """Over how many processes is divided what ZeRO divides from `stage` on."""
    first = {"zero-1": 1, "zero-2": 2, "zero-3": 3, "fsdp2": 3}.get(setup.sharing, 0)
    return setup.ranks if first >= stage else 1


def _weight_bytes(setup: Setup) -> int:
    """The model as it lies there, and the adapter. What learns is float32, but for ZeRO and narrow masters."""
    method, frozen = setup.method, DTYPE_BYTES[setup.stored]
    narrow = setup.sharing.startswith("zero") or setup.masters != "float32"
    learning = frozen if narrow else FLOAT32
    whole = setup.shape.parameters - method.whole
    held = _frozen_bytes(setup, whole) + method.trainable * learning
    return int(held / _shared_by(setup, 3))


def _frozen_bytes(setup: Setup, count: int) -> float:
    each = DTYPE_BYTES[setup.stored]
    if setup.precision.by_layer:
        return count * each + (FLOAT32 - each) * setup.shape.besides_matrices
    if setup.quantization is None:
        return count * each
    kept = (is_head, is_visual)
    matrices = setup.shape.linears.items()
    packed = sum(a * b for name, (a, b) in matrices if not any(unpacked(name) for unpacked in kept))
    return packed * _QUANTIZED[setup.quantization] + (count - packed) * each


def _copy_bytes(setup: Setup) -> int:
    """Weights in the dtype of the arithmetic, kept from forward to backward; float32 masters of an engine.

    Of weights that are widened one by one, the largest.
    """
    if setup.precision.by_layer:
        return FLOAT32 * setup.shape.largest_matrix
    if setup.autocast:
        seen = setup.method.looks  # casts of what does not learn are not kept
        matrices = sum(a * b for name, (a, b) in setup.shape.linears.items() if seen or not is_visual(name))
        return setup.compute_bytes * matrices // _shared_by(setup, 3)
    if setup.sharing.startswith("zero") and setup.stored != "F32":
        return FLOAT32 * setup.method.trainable // _shared_by(setup, 1)
    return 0


def _gradient_bytes(setup: Setup, load: Load) -> int:
    """Of bfloat16 weights as wide as these, unless several micro-batches of a step are added up."""
    each = NARROW if setup.masters != "float32" and load.alone else FLOAT32
    return each * setup.method.trainable // _shared_by(setup, 2)


def _remembered(setup: Setup) -> float:
    """Bytes that the optimizer keeps of each number: its moments, and what bfloat16 weights lack of float32."""
    return MOMENTS[setup.optim] + (NARROW if setup.masters == "split" else 0)


def _head_bytes(setup: Setup, load: Load) -> int:
    """Logits, whose gradient takes their place: of some rows at a time, unless the head has an adapter.

    Where the output layer learns, the gradient of this micro-batch comes beside that of those before.
    """
    shape, narrow = setup.shape, setup.compute_bytes
    logits = load.supervised * shape.vocabulary * narrow
    if not any(map(is_head, setup.method.adapted)):
        logits = min(logits, HEAD_CHUNK_BYTES[setup.device])
    rows = 2 * load.supervised * shape.hidden * FLOAT32
    learning = shape.vocabulary * shape.hidden * (FLOAT32 + narrow) if setup.method.kind == "full" else 0
    return logits + rows + learning


def _exchange_bytes(setup: Setup) -> int:
    """What processes send each other: gradients in buckets (DDP), two layers put together (shared weights)."""
    if setup.sharing == "ddp":
        return FLOAT32 * setup.method.trainable
    if setup.shares_weights:
        shape = setup.shape
        widest = max(shape.largest_layer, shape.vocabulary * shape.hidden)
        return int(2 * widest * DTYPE_BYTES[setup.stored])
    return 0


def _allocator_bytes(setup: Setup, load: Load) -> int:
    """What comes and goes leaves holes that nothing else fits into: on the CPU, in glibc's heap."""
    if setup.device != "cpu":
        return 0
    passing = activation_bytes(setup, load) + workspace_bytes(setup, load)
    scattered = passing * small_share(setup, load, MAPPED_BYTES)
    again = setup.recomputed_layers / setup.shape.layers
    remade = is_lean(setup) and setup.method.kind == "lora" and not setup.method.dropped
    holes = HOLES_REMADE if remade else HOLES
    return int((holes + again * (HOLES_RECOMPUTED - holes)) * scattered)
