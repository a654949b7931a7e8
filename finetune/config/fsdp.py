"""How a model is spread over processes by FSDP2: `fsdp` and `fsdp_config` as transformers spells them."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from finetune.config.fsdp_keys import NO_EFFECT, NOT_HONOURED
from finetune.config.section import Section, is_same


@dataclass(frozen=True, slots=True)
class Sharding:
    """What FSDP2 is told.

    reshard_after_forward: whether a layer's weights are given up again after its forward pass. cpu_offload:
    whether shards lie in the host's memory. layer_classes: names of the classes that are sharded one by one;
    empty: the model's own choice.
    """

    reshard_after_forward: bool
    cpu_offload: bool
    layer_classes: tuple[str, ...]


_RESHARDS = {"full_shard": True, "shard_grad_op": False}
"""Strategy -> whether weights are given up after the forward pass."""

_WORDS = (*_RESHARDS, "offload", "auto_wrap")
_REFUSED = {
    "no_shard": "shards nothing; remove fsdp",
    "hybrid_shard": "is not built; use full_shard",
    "hybrid_shard_zero2": "is not built; use shard_grad_op",
}

Words = bool | str | list[str] | None


def words_of(fsdp: Words) -> tuple[str, ...]:
    """The words of `fsdp`, in lower case; none where it only says true or false."""
    match fsdp:
        case str():
            return tuple(fsdp.lower().replace(",", " ").split())
        case list():
            return tuple(word.lower() for word in fsdp)
        case _:
            return ()


def _known_words(fsdp: Words) -> Words:
    words = words_of(fsdp)
    for word in words:
        if word in _REFUSED:
            raise ValueError(f"{word} {_REFUSED[word]}")
        if word not in _WORDS:
            raise ValueError(f"expected true, or of the words {', '.join(_WORDS)}, found {word!r}")
    if set(_RESHARDS) <= set(words):
        raise ValueError("full_shard and shard_grad_op exclude each other; remove one")
    return fsdp


KnownWords = Annotated[Words, AfterValidator(_known_words)]
"""What `fsdp` may be."""


def _no_strategy(value: Any) -> Any:
    """FSDP1 has a strategy where FSDP2 has true or false."""
    strategy = value.lower() if isinstance(value, str) else ""
    if strategy in _RESHARDS:
        meant = str(_RESHARDS[strategy]).lower()
        raise ValueError(f"{value} is a strategy of FSDP1, finetune runs FSDP2; write {meant}")
    if strategy in _REFUSED:
        raise ValueError(f"{value} is a strategy of FSDP1, finetune runs FSDP2; write true or false")
    return value


class FsdpConfig(Section):
    """Options of FSDP2."""

    reshard_after_forward: Annotated[
        bool | None, BeforeValidator(_no_strategy, json_schema_input_type=bool | None)
    ] = None
    """Give up a layer's weights after its forward pass; null: as `fsdp` says, true without a word of it."""

    cpu_offload: bool | None = None
    """Keep shards in the host's memory, and update them there; null: as `fsdp` says."""

    transformer_layer_cls_to_wrap: str | list[str] | None = None
    """Classes of layers to shard one by one, such as `GlmDecoderLayer`; null: the model's own choice."""

    @model_validator(mode="before")
    @classmethod
    def _without_defaults_of_others(cls, values: Any) -> Any:
        """Drop the keys we do not honour where they stand at transformers' own default."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if not at_default(key, value)}

    @property
    def layer_classes(self) -> tuple[str, ...]:
        """Those names; in one text they stand with commas, as accelerate writes them."""
        names = self.transformer_layer_cls_to_wrap or ()
        return tuple(names.replace(",", " ").split() if isinstance(names, str) else names)


def at_default(key: str, value: object) -> bool:
    """Whether this is a key of fsdp_config that changes nothing here, standing where transformers puts it."""
    if key in NO_EFFECT:
        return is_same(value, NO_EFFECT[key].default)
    return key in NOT_HONOURED and is_same(value, NOT_HONOURED[key])


def sharding(fsdp: Words, options: FsdpConfig | None) -> Sharding | None:
    """What both keys ask for together; None where `fsdp` is off."""
    if not fsdp:
        return None
    words, options = words_of(fsdp), options or FsdpConfig()
    reshard, offload = options.reshard_after_forward, options.cpu_offload
    return Sharding(
        reshard_after_forward="shard_grad_op" not in words if reshard is None else reshard,
        cpu_offload="offload" in words if offload is None else offload,
        layer_classes=options.layer_classes,
    )


def contradictions(fsdp: Words, options: FsdpConfig) -> tuple[str, ...]:
    """The options that say something else than the words of `fsdp`."""
    words = words_of(fsdp)
    said = [_RESHARDS[word] for word in words if word in _RESHARDS]
    reshards = said and options.reshard_after_forward not in (None, said[0])
    offloads = "offload" in words and options.cpu_offload is False
    wrong = {"reshard_after_forward": reshards, "cpu_offload": offloads}
    return tuple(key for key in wrong if wrong[key])
