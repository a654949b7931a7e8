"""What GLM-4's configurations call the modules of a model, and what transformers' classes call them."""

from collections.abc import Collection, Mapping

OLD_NAMES = {
    "query_key_value": (("q_proj", "k_proj", "v_proj"), ("qkv_proj",), ("c_attn",)),
    "dense": (("o_proj",), ("out_proj",)),
    "dense_h_to_4h": (("gate_up_proj",), ("gate_proj", "up_proj")),
    "dense_4h_to_h": (("down_proj",),),
    "output_layer": (("lm_head",),),
    "word_embeddings": (("embed_tokens",),),
}
"""The fused names of ChatGLM's own code, and what transformers' classes call the same weights."""

_PROJECTOR = r"(merger|downsample|deepstack_merger_list)"
PARTS: Mapping[str, str] = {
    "vision": r"(.*\.)?visual\..*",
    "tower": rf"(.*\.)?visual\.(?!{_PROJECTOR}\b).*",
    "projector": rf"(.*\.)?visual\.{_PROJECTOR}(\..*)?",
}
"""The parts of a model that sees, for `freeze`: patterns of the whole names of their modules and weights."""


def mapped(name: str, last: Collection[str]) -> tuple[str, ...]:
    """What `name` is called in a model whose modules have the last names `last`; itself where nobody knows."""
    if name in last or name not in OLD_NAMES:
        return (name,)
    return next((new for new in OLD_NAMES[name] if set(last).issuperset(new)), (name,))
