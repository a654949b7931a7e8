"""The sizes of a model, from its config.json and the headers of its weight files. Nothing is loaded."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune.config.modules import is_in
from finetune.errors import ModelError
from finetune.folder import is_hub_id
from finetune.plain_json import parse_json, read_json
from finetune.weights import INDEX_FILE, indexed_files

DTYPE_BYTES: Mapping[str, float] = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_MOST_LAYERS = 10_000
"""Of a model that is made before its weights are looked at; the deepest that are published have some 200."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored tensor; `dtype` as safetensors spells it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return int(self.count * DTYPE_BYTES.get(self.dtype, 2))


@dataclass(frozen=True, slots=True)
class Tower:
    """A vision tower: widths in numbers per patch of a picture.

    middle: of the feed-forward layer; gated: whether it has two matrices of that width. pixels: numbers that a
    patch is made of, its frames together. merge: patches, squared, that become one token of the text.
    """

    layers: int
    hidden: int
    heads: int
    middle: int
    gated: bool
    pixels: int
    merge: int


@dataclass(frozen=True)
class Shape:
    """A decoder: widths in numbers per token, and every weight by name, those of a vision tower among them.

    queries, keys: heads times their size, and the same of the key/value heads. rotary: numbers of a position's
    cosine. middle: of the gated feed-forward layer, over the experts that a token passes through.
    """

    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    rotary: int
    middle: int
    vocabulary: int
    weights: Mapping[str, Weight]
    tied: bool
    tower: Tower | None = None

    @property
    def dtype(self) -> str:
        """Of most of the weights."""
        counts: dict[str, int] = {}
        for weight in self.weights.values():
            counts[weight.dtype] = counts.get(weight.dtype, 0) + weight.count
        return max(counts, key=lambda name: counts[name])

    @property
    def parameters(self) -> int:
        return sum(weight.count for weight in self.weights.values())

    @cached_property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Module -> (inputs, outputs) of the matrices that are no embeddings: the head and the tower's too."""
        found = {}
        for name, weight in self.weights.items():
            module = name.removesuffix(".weight")
            if name.endswith(".weight") and len(weight.shape) == 2 and not is_embedding(module):
                found[module] = (weight.shape[1], weight.shape[0])
        return found

    @property
    def largest_matrix(self) -> int:
        """Numbers in the largest of `linears`."""
        return max((a * b for a, b in self.linears.values()), default=0)

    @property
    def besides_matrices(self) -> int:
        """Numbers in weights that are none of `linears`."""
        return self.parameters - sum(a * b for a, b in self.linears.values())

    @property
    def head(self) -> tuple[int, int]:
        """Inputs and outputs of the matrix that makes logits."""
        return self.hidden, self.vocabulary

    @property
    def largest_layer(self) -> int:
        """Numbers in one decoder layer."""
        inner = sum(weight.count for name, weight in self.weights.items() if ".layers." in f".{name}")
        return inner // self.layers


def is_embedding(module: str) -> bool:
    last = module.rsplit(".", 1)[-1]
    return last in ("embed_tokens", "word_embeddings", "wte", "wpe", "position_embedding", "pos_embed")


def is_head(module: str) -> bool:
    return module.rsplit(".", 1)[-1] in ("lm_head", "output_layer", "embed_out")


def is_visual(name: str) -> bool:
    """Whether a module or weight is of the vision tower or its projector."""
    return is_in(name, "vision")


def read_shape(model: str | Path) -> Shape:
    """The sizes of the model in a folder, or of a Hub id whose files lie in the Hub's cache.

    Raises ModelError naming the file that is missing or cannot be used.
    """
    folder = _folder_of(model)
    where = folder / "config.json"
    try:
        raw = read_json(where)
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no config.json; MODEL is a folder with a transformers checkpoint"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}: cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise ModelError(f"{where}: not a JSON object")
    check_sizes(where, raw)
    return _shape(where, raw, dict(_headers(folder)))


def _folder_of(model: str | Path) -> Path:
    if Path(model).is_dir():
        return Path(model)
    if Path(model).exists() or not is_hub_id(str(model)):
        what = "a file, not a folder" if Path(model).exists() else "no such folder"
        raise ModelError(f"{model}: {what}; MODEL is a folder with a transformers checkpoint, or a Hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), local_files_only=True))
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{model}: is not in the Hub's cache; the estimate reads the files of a model (hf download {model})"
        ) from None


def check_sizes(where: str | Path, raw: Mapping[str, Any]) -> None:
    """Refuse a config.json whose model could not be made. Raises ModelError naming the key."""
    for part in (raw, raw.get("text_config"), raw.get("vision_config")):
        sizes = part if isinstance(part, dict) else {}
        for key in _SIZES:
            value = sizes.get(key)
            if isinstance(value, int) and (value < 1 or (key == "num_hidden_layers" and value > _MOST_LAYERS)):
                raise ModelError(f"{where}: {key} is {value}, which no model has; copy config.json again")


def _shape(where: Path, raw: Mapping[str, Any], weights: Mapping[str, Weight]) -> Shape:
    inner = raw.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, dict) else raw
    hidden, heads = _size(where, text, "hidden_size"), _size(where, text, "num_attention_heads")
    size = text.get("head_dim") or hidden // heads
    rope = text.get("rope_parameters") or text
    share = rope.get("partial_rotary_factor") or text.get("partial_rotary_factor") or 1.0
    return Shape(
        layers=_size(where, text, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        queries=heads * size,
        keys=(text.get("num_key_value_heads") or heads) * size,
        rotary=int(size * share),
        middle=_middle(where, text),
        vocabulary=_size(where, text, "vocab_size"),
        weights=weights,
        tied=not any(is_head(name.removesuffix(".weight")) for name in weights),
        tower=_tower(where, raw, weights),
    )


def _tower(where: Path, raw: Mapping[str, Any], weights: Mapping[str, Weight]) -> Tower | None:
    """From the weights: families mean different widths by the same key. Heads and merge are in no weight."""
    said, seen = raw.get("vision_config"), {name: w.shape for name, w in weights.items() if is_visual(name)}
    if not isinstance(said, dict) or not seen:
        return None
    blocks = {found[1] for name in seen if (found := re.search(r"visual\.blocks\.(\d+)\.", name))}
    patch = _of(where, seen, r"patch_embed\.proj")
    return Tower(
        layers=len(blocks),
        hidden=patch[0],
        heads=_size(where, said, "num_heads"),
        middle=_of(where, seen, r"blocks\.0\.mlp\.(gate_proj|up_proj|linear_fc1|fc1)")[0],
        gated=any(name.endswith("blocks.0.mlp.gate_proj.weight") for name in seen),
        pixels=math.prod(patch[1:]),
        merge=said.get("spatial_merge_size") or 2,
    )


def _of(where: Path, shapes: Mapping[str, tuple[int, ...]], module: str) -> tuple[int, ...]:
    for name, shape in shapes.items():
        if re.fullmatch(rf"(.*\.)?visual\.{module}\.weight", name):
            return shape
    raise ModelError(
        f"{where.parent}: no weight like visual.{module}; the estimate knows GLM's and Qwen's towers"
    )


def _middle(where: Path, text: Mapping[str, Any]) -> int:
    per_token = text.get("num_experts_per_tok")
    if not per_token:
        return _size(where, text, "intermediate_size")
    shared = text.get("n_shared_experts") or 0
    width = text.get("moe_intermediate_size") or _size(where, text, "intermediate_size")
    return int(width * (per_token + shared))


def _size(where: Path, text: Mapping[str, Any], key: str) -> int:
    value = text.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelError(
            f"{where}: {key} is {value!r}; the estimate knows decoders whose config.json states it"
        )
    return value


def _headers(folder: Path) -> Iterator[tuple[str, Weight]]:
    """Every tensor in the folder's weight files: those of the index, where there is one."""
    index = folder / INDEX_FILE
    files = sorted(folder.glob("*.safetensors"))
    if index.exists():
        files = [folder / name for name in indexed_files(index)]
    if not files:
        raise ModelError(f"{folder}: no *.safetensors; the estimate counts weights in their headers")
    for file in files:
        yield from header(file).items()


def header(file: Path) -> dict[str, Weight]:
    """The tensors of a safetensors file: an 8-byte length, and so much JSON. Raises ModelError."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes")
            found = parse_json(stream.read(length))
        return {
            name: Weight(tuple(entry["shape"]), entry["dtype"])
            for name, entry in found.items()
            if name != "__metadata__"
        }
    except FileNotFoundError:
        raise ModelError(f"{file}: missing, though the index names it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: not a safetensors file: {error}") from None
