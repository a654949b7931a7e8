"""In what dtype a model is computed: that of its weights, or on a CPU that is slow in it, float32. Pure.

    stored  asked (model_config.dtype)   slowdown   computed
    BF16    auto                         9.1        F32    weights widened when read, or layer by layer
    BF16    auto                         1.1        BF16
    BF16    bfloat16                     9.1        BF16   with a warning
    F32     auto                         any        F32

Saved models keep the dtype of their files either way. A resumed run keeps what it was begun in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

CLEARLY = 1.5
"""How many times slower products must be before float32 is computed in; timing is right to some tenths."""

NAMES: Mapping[str, str] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
SPELT: Mapping[str, str] = {name: short for short, name in NAMES.items()}


@dataclass(frozen=True, slots=True)
class Precision:
    """stored: dtype of the files. computed: of the products of frozen weights. Both as safetensors spells them.

    by_layer: weights stay as stored, and each is widened while it is used. slowdown: of products in `stored`
    on this processor, against float32. demanded: why they are computed so nevertheless.
    """

    stored: str
    computed: str
    by_layer: bool = False
    slowdown: float = 1.0
    demanded: str | None = None

    @property
    def widened(self) -> bool:
        """Whether products are in float32, and the files are not."""
        return self.computed != self.stored

    @property
    def held(self) -> str:
        """Of the frozen weights in memory."""
        return self.stored if self.by_layer else self.computed

    def in_memory(self, *, by_layer: bool) -> "Precision":
        """The same arithmetic; by_layer: on weights that stay as stored."""
        return replace(self, by_layer=by_layer and self.widened)

    def line(self, *, advice: bool = True) -> str | None:
        """What is said of it; None where there is nothing to say. advice: with the key that says otherwise."""
        if self.slowdown < CLEARLY:
            return None
        slower = f"this processor multiplies {NAMES[self.stored]} matrices {self.slowdown:.1f} times slower"
        if self.demanded is not None:
            return f"{self.demanded}: {slower} than float32 ones"
        how = ", each weight widened while it is used" if self.by_layer else ""
        asked = f"; model_config.dtype: {NAMES[self.stored]} computes in it all the same" if advice else ""
        return f"computing in float32{how}: {slower}{asked}"


def precision_of(
    stored: str,
    asked: str,
    slowdown: Mapping[str, float],
    *,
    begun_in: str | None = None,
    bound: str | None = None,
) -> Precision:
    """How to compute a model of `stored` weights on a processor with this `slowdown` (empty: not a CPU).

    asked: `model_config.dtype`. begun_in: the dtype, by torch's name, that a resumed run was begun in. bound:
    the key of the configuration that computes in the dtype of the weights whatever the processor.
    """
    stored = SPELT.get(asked, stored)
    slow = slowdown.get(stored, 1.0)
    as_stored = Precision(stored, stored, slowdown=slow)
    if begun_in is not None:
        return _as_begun(as_stored, SPELT.get(begun_in, stored))
    if asked in SPELT:
        bound = f"model_config.dtype: {asked}"
    if slow < CLEARLY or bound is not None:
        return replace(as_stored, demanded=bound)
    return replace(as_stored, computed="F32")


def _as_begun(precision: Precision, computed: str) -> Precision:
    if computed == precision.stored:
        return replace(precision, demanded=f"the run was begun in {NAMES.get(computed, computed)}")
    return replace(precision, computed=computed)
