"""The shapes of the models that are measured."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """A GLM-4's shape; `vocab` is what the embeddings are padded to, whatever the tokenizer knows."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the matrix products of one layer, as the model computes them."""
        keys = self.kv_heads * self.head_dim
        return (
            (self.hidden, self.hidden),
            (self.hidden, keys),
            (self.hidden, keys),
            (self.hidden, self.hidden),
            (self.hidden, 2 * self.ffn),
            (self.ffn, self.hidden),
        )

    @property
    def layer_parameters(self) -> int:
        """Those of all layers' matrices."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def head_parameters(self) -> int:
        return self.hidden * self.vocab

    def config(self) -> dict[str, Any]:
        """The shape as fields of `GlmConfig`."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
        }

    def with_vocab(self, vocab: int | None) -> "Shape":
        return self if vocab is None else replace(self, vocab=vocab)


SHAPES = {
    "tiny": Shape(hidden=64, layers=2, heads=4, kv_heads=2, ffn=96, vocab=1_024),
    "smollm2": Shape(hidden=576, layers=30, heads=9, kv_heads=3, ffn=1_536, vocab=49_152),
    "57m": Shape(hidden=512, layers=8, heads=8, kv_heads=2, ffn=1_536, vocab=32_000),
    "glm-4-9b": Shape(hidden=4_096, layers=40, heads=32, kv_heads=2, ffn=13_696, vocab=151_552),
}
