"""The `peft_config` we honour: one section per kind of adapter, with peft's own names and defaults.

peft is never imported here: a test compares both. Keys that peft knows and we do not honour stand in
`NOT_HONOURED`; they are accepted at peft's own default and refused by name elsewhere.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from finetune.config.peft_keys import EVERY_KIND, NOT_HONOURED
from finetune.config.section import Count, Section, Share, is_same

Names = list[str]
Number = Annotated[int, Field(ge=0)]
Layers = list[Number]


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _each_once(numbers: list[int]) -> list[int]:
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise ValueError(f"{twice[0]} stands there twice; one of its embeddings would learn, the other count")
    return numbers


Pattern = Annotated[str, AfterValidator(_is_pattern)]
"""A regular expression of names of modules."""

Tokens = Annotated[list[Number], AfterValidator(_each_once)]

PrefixInit = Literal["text", "tokens", "random"]

_INITIAL = ("gaussian", "orthogonal")
_OTHER_INITIAL = {
    "eva": "a pass over the data before training, which finetune does not make",
    "corda": "a pass over the data before training, which finetune does not make",
    "lora_ga": "a pass over the data before training, which finetune does not make",
    "loftq": "its own quantization of the base; model_config.quantization: nf4 is the supported way",
    "olora": "other base weights than the model has, so its adapter fits no model as it is; use orthogonal",
    "pissa": "other base weights than the model has, so its adapter fits no model as it is; use orthogonal",
    "mica": "a frozen half, made anew from the base at every start, not the same everywhere; use orthogonal",
}

UNTRAINED: Mapping[str, str] = {
    "ADALORA": "its ranks follow a schedule that peft leaves to the training loop; use LORA",
}
"""peft_type -> why it is not trained, and what to use instead."""


def _known_initial(value: bool | str) -> bool | str:
    name = re.sub(r"_niter_\d+$", "", str(value))
    if name in _OTHER_INITIAL:
        raise ValueError(f"{value} needs {_OTHER_INITIAL[name]}")
    if isinstance(value, str) and value not in _INITIAL:
        raise ValueError(f"expected true, false, {' or '.join(_INITIAL)}, found {value!r}")
    return value


class Adapter(Section):
    """What every kind of adapter shares."""

    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    """Only causal language models are trained."""

    @model_validator(mode="before")
    @classmethod
    def _without_defaults_of_others(cls, values: Any) -> Any:
        """Drop the keys we do not honour where they stand at peft's own default."""
        match values:
            case {"peft_type": str(kind)}:
                return {key: value for key, value in values.items() if not at_default(kind, key, value)}
        return values


class TargetedTuning(Adapter):
    """What adapters on chosen modules share."""

    target_modules: Pattern | Names | None = None
    """Names (query_key_value means q, k, v), a pattern, or `all-linear`; null: peft's choice for the model."""

    exclude_modules: Pattern | Names | None = None
    """Modules to leave alone: names, or a pattern."""

    fan_in_fan_out: bool = False
    """The base stores its weights transposed, as GPT-2 does."""

    modules_to_save: Names | None = None
    """Modules trained in full beside the adapter."""


class BlockDiagonal(Section):
    """Block-diagonal LoRA: matrices in blocks, which several GPUs serve without talking."""

    target_modules_bd_a: Names | None = None
    """Modules whose first matrix is in blocks: parts of their names."""

    target_modules_bd_b: Names | None = None
    """Modules whose second matrix is in blocks."""

    nblocks: Count = 1
    """Blocks of a matrix: the GPUs that will serve it."""

    match_strict: bool = True
    """Refuse a target module that stands in neither list."""


class LoraTuning(TargetedTuning):
    """LoRA: a low-rank update beside frozen weights."""

    peft_type: Literal["LORA"]
    """Which adapter."""

    r: Count = 8
    """The rank."""

    lora_alpha: Count = 8
    """The adapter is scaled by lora_alpha / r."""

    lora_dropout: Share = 0.0
    """Share of the adapter's inputs that is dropped while training."""

    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained too."""

    init_lora_weights: Annotated[bool | str, AfterValidator(_known_initial)] = True
    """True, gaussian or orthogonal start as a no-op; false: at random."""

    layers_to_transform: Number | Layers | None = None
    """Adapt these layers only; null: all."""

    layers_pattern: str | Names | None = None
    """What the list of layers is called in the model, where peft does not know."""

    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead."""

    use_dora: bool = False
    """DoRA: learn the magnitude of every weight column apart from its direction."""

    rank_pattern: dict[Pattern, Count] = Field(default_factory=dict)
    """Another rank for modules whose name matches."""

    alpha_pattern: dict[Pattern, Count] = Field(default_factory=dict)
    """Another lora_alpha for modules whose name matches."""

    trainable_token_indices: Tokens | dict[str, Tokens] | None = None
    """Token ids whose embeddings are trained too."""

    lora_bias: bool = False
    """Give the second matrix a bias."""

    target_parameters: Names | None = None
    """Parameters to adapt that are no modules of their own, such as the experts of a mixture."""

    use_bdlora: BlockDiagonal | None = None
    """Options of block-diagonal LoRA."""

    ensure_weight_tying: bool = False
    """Adapt tied embeddings as one."""


class IA3Tuning(TargetedTuning):
    """IA3: learnt scales of activations."""

    peft_type: Literal["IA3"]
    """Which adapter."""

    feedforward_modules: Pattern | Names | None = None
    """Those of target_modules that are feed-forward layers: scaled at their input."""

    init_ia3_weights: bool = True
    """Start as a no-op."""


class VirtualTokens(Adapter):
    """What methods with virtual tokens share. Shapes that disagree with the model are corrected, and said."""

    num_virtual_tokens: Count
    """Learnt tokens before every conversation."""

    token_dim: Count | None = None
    """Taken from the model."""

    num_transformer_submodules: Count | None = None
    """Taken from the model."""

    num_attention_heads: Count | None = None
    """Taken from the model."""

    num_layers: Count | None = None
    """Taken from the model."""

    modules_to_save: Names | None = None
    """Modules trained in full beside the virtual tokens."""


class PrefixTuning(VirtualTokens):
    """Prefix tuning (P-Tuning v2): learnt keys and values in every layer."""

    peft_type: Literal["PREFIX_TUNING"]
    """Which adapter."""

    prefix_projection: bool = False
    """Compute them with a small network."""

    encoder_hidden_size: Count | None = None
    """That network's width; null: token_dim."""

    init_weights: Literal["zero"] | None = None
    """Start with zeros instead of at random; with `prefix_init: random`, or without it."""

    prefix_init: PrefixInit | None = None
    """Start as what the model keeps of a text or of frequent tokens, or at random; null: text if possible."""

    prefix_init_text: str | None = None
    """That text, repeated or cut to num_virtual_tokens; null: the first tokens of the training data."""

    @property
    def starts_as(self) -> PrefixInit:
        """`prefix_init`, or what stands in its place."""
        return self.prefix_init or ("text" if self.init_weights is None else "random")


class PTuning(VirtualTokens):
    """P-Tuning: learnt input embeddings, computed by a small network."""

    peft_type: Literal["P_TUNING"]
    """Which adapter."""

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = "MLP"
    """The kind of that network."""

    encoder_hidden_size: Count | None = None
    """Its width; null: token_dim."""

    encoder_num_layers: Count = 2
    """Its layers."""

    encoder_dropout: Share = 0.0
    """Its dropout."""


Plain = bool | int | float | str | None


def _no_remote_code(options: dict[str, Any]) -> dict[str, Any]:
    if options.get("trust_remote_code"):
        raise ValueError(
            "trust_remote_code would run the tokenizer's Python code; name a tokenizer that is a tokenizer.json"
        )
    return options


class PromptTuning(VirtualTokens):
    """Prompt tuning: learnt input embeddings."""

    peft_type: Literal["PROMPT_TUNING"]
    """Which adapter."""

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = "RANDOM"
    """Start at random, from random tokens of the vocabulary, or from prompt_tuning_init_text."""

    prompt_tuning_init_text: str | None = None
    """The text to start from."""

    tokenizer_name_or_path: str | None = None
    """What tokenizes that text; null: the base model's own tokenizer."""

    tokenizer_kwargs: Annotated[dict[str, Plain], AfterValidator(_no_remote_code)] | None = None
    """Options of that tokenizer."""


Tuning = Annotated[
    LoraTuning | IA3Tuning | PrefixTuning | PTuning | PromptTuning,
    Field(discriminator="peft_type"),
]

_KINDS: tuple[type[Adapter], ...] = get_args(get_args(Tuning)[0])
TUNINGS: Mapping[str, type[Adapter]] = {
    get_args(kind.model_fields["peft_type"].annotation)[0]: kind for kind in _KINDS
}
"""peft_type -> the section that describes it."""


OURS_ALONE = frozenset(["prefix_init", "prefix_init_text"])
"""Keys that peft has not: they say what its weights start as."""


def all_options(tuning: Adapter) -> dict[str, Any]:
    """Every option of peft's that has a meaning here, with its value: what a run records is what peft is given.

    Those that are not honoured stand where peft itself put them when this was written.
    """
    kind = str(tuning.model_dump()["peft_type"])
    others = {key: value for key, value in NOT_HONOURED[kind].items() if key not in EVERY_KIND}
    return others | tuning.model_dump(exclude={"peft_type", *OURS_ALONE})


def at_default(kind: str, key: str, value: object) -> bool:
    """Whether this is a key of `kind` we do not honour, standing where peft itself puts it."""
    known = NOT_HONOURED.get(kind, {})
    return key in known and is_same(value, known[key])
