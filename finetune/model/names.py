"""Which modules of a model a `peft_config` means: names of other architectures mapped, wrong ones refused.

peft lets one wrong name among several pass, and patterns and layers that are not there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from finetune import log
from finetune.config.modules import mapped
from finetune.errors import ConfigError


def map_names(
    model: PreTrainedModel, names: str | Sequence[str], key: str, left_alone: str | None = None
) -> str | list[str]:
    """The modules a key of `peft_config` lists, in this architecture's own names, sorted; says what it mapped.

    ChatGLM's `query_key_value` becomes q/k/v, and so on. A single string is a pattern and stays as it is,
    but for `all-linear`, which becomes the list of names it stands for (peft would write them in set order).
    left_alone: a pattern of modules that the names do not mean.
    Raises ConfigError for a name that is no module of the model, where peft would let one among several pass.
    """
    if names == "all-linear":
        return sorted(_linear_names(model, left_alone))
    every = {name for name, _ in model.named_modules()}
    modules = {name for name in every if not (left_alone and re.fullmatch(left_alone, name))}
    if isinstance(names, str):
        if not _matches(modules, names, f"peft_config.{key}"):
            raise ConfigError(
                f"peft_config.{key}: {names!r} matches no module's whole name; write a list of last names, "
                "such as [q_proj, v_proj], or a pattern like .*q_proj"
            )
        return names
    last = {module.rsplit(".", 1)[-1] for module in modules}
    found = {name: mapped(name, last) for name in names}
    for old, new in found.items():
        if new != (old,):
            log.info(f"{key}: {old} is {', '.join(new)} in {type(model).__name__}")
    known = sorted({name for new in found.values() for name in new})
    _refuse_frozen(every - modules, modules, known, f"peft_config.{key}")
    refuse_unmatched(modules, known, ConfigError, f"peft_config.{key}")
    return known


def also_left_alone(named: str | Sequence[str] | None, pattern: str) -> str:
    """`exclude_modules` as a pattern, with another pattern besides."""
    if not named:
        return pattern
    own = named if isinstance(named, str) else rf"(.*\.)?({'|'.join(map(re.escape, named))})"
    return f"{own}|{pattern}"


def _refuse_frozen(frozen: set[str], modules: set[str], targets: Iterable[str], where: str) -> None:
    """Raises ConfigError for a name that only stands where no adapter goes."""
    for target in targets:
        here, there = (
            any(name == target or name.endswith(f".{target}") for name in names) for names in (modules, frozen)
        )
        if there and not here:
            raise ConfigError(
                f"{where}: {target!r} is a module of the vision tower or its projector, which get no adapters; "
                "set model_config.freeze: [] to adapt them too ([tower]: the projector only)"
            )


def refuse_unmatched(modules: set[str], targets: Iterable[str], kind: type[Exception], where: str) -> None:
    """Raises `kind` for a name that is no module's last name, with the nearest one that is."""
    for target in targets:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            last = {module.rsplit(".", 1)[-1] for module in modules}
            known = sorted(name for name in last if name and not name.isdigit())
            close = get_close_matches(target, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"its modules are {', '.join(known)}"
            raise kind(f"{where}: the model has no module {target!r}; {hint}")


def _matches(modules: Iterable[str], pattern: str, where: str) -> bool:
    """Whether a pattern is the whole name of some module, which is how peft takes it."""
    try:
        return any(re.fullmatch(pattern, module) for module in modules)
    except re.error as error:
        raise ConfigError(f"{where}: {pattern!r} is no regular expression: {error}") from error


def refuse_out_of_range(model: PreTrainedModel, options: Mapping[str, Any]) -> None:
    """Layers, tokens and patterns that the model does not have, where peft would say nothing, or crash."""
    config = model.config.get_text_config()
    for key, size in (
        ("layers_to_transform", config.num_hidden_layers),
        ("trainable_token_indices", config.vocab_size),
    ):
        for index in _numbers(options.get(key)):
            if not 0 <= index < size:
                raise ConfigError(f"peft_config.{key}: {index}: the model has 0 to {size - 1}")
    modules = [name for name, _ in model.named_modules()]
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in options.get(key) or ():
            if not _matches(modules, rf"(.*\.)?({pattern})", f"peft_config.{key}"):
                raise ConfigError(f"peft_config.{key}: {pattern!r} matches no module of the model")


def _numbers(value: Any) -> Iterator[int]:
    """The whole numbers in a number, a list, or a map of lists."""
    match value:
        case int():
            yield value
        case list():
            yield from value
        case dict():
            yield from (index for indices in value.values() for index in indices)


def _linear_names(model: PreTrainedModel, left_alone: str | None) -> set[str]:
    """The shortest endings of names that mean all linear layers but the output layer, and nothing else."""
    head = model.get_output_embeddings()
    open_to_all = {
        name: module
        for name, module in model.named_modules()
        if name and not (left_alone and re.fullmatch(left_alone, name))
    }
    meant = {
        name for name, module in open_to_all.items() if isinstance(module, nn.Linear) and module is not head
    }
    others = open_to_all.keys() - meant
    return {_ending(name, others) for name in meant}


def _ending(name: str, others: Iterable[str]) -> str:
    """The shortest ending of a name, in whole steps, that no other name has."""
    steps = name.split(".")
    endings = (".".join(steps[-count:]) for count in range(1, len(steps) + 1))
    return next(end for end in endings if not any(f".{other}".endswith(f".{end}") for other in others))
