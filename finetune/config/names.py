"""Which keys are legal where, and what somebody may have meant who wrote another one."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches

from pydantic import BaseModel

from finetune.config import fsdp_keys, other_names, other_tools, peft_keys, transformers_keys
from finetune.config.arguments import OWNERS, GenerationConfig, GradientCheckpointing
from finetune.config.draft import Draft, KeyPath, dotted
from finetune.config.fsdp import FsdpConfig
from finetune.config.schema import (
    Config,
    DataConfig,
    EarlyStopping,
    EvaluationConfig,
    FileShare,
    ModelConfig,
    RunConfig,
)
from finetune.config.tuning import TUNINGS, BlockDiagonal


def _names(section: type[BaseModel]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in section.model_fields.items())


LEVELS: Mapping[str, frozenset[str]] = {
    "": _names(Config),
    "data_config": _names(DataConfig),
    "model_config": _names(ModelConfig),
    "training_args": frozenset(OWNERS),
    "peft_config": frozenset().union(*map(_names, TUNINGS.values())),
    "peft_config.use_bdlora": _names(BlockDiagonal),
    "run": _names(RunConfig),
    "run.early_stopping": _names(EarlyStopping),
    "evaluation": _names(EvaluationConfig),
    "data_config.train_file": _names(FileShare),
    "training_args.fsdp_config": _names(FsdpConfig),
    "training_args.generation_config": _names(GenerationConfig),
    "training_args.gradient_checkpointing_kwargs": _names(GradientCheckpointing),
}
"""Dotted level, without the places in lists -> the keys that are legal there."""

_FEW = 20
"""So many legal keys are still told in a message."""


def explain_unknown(draft: Draft, path: KeyPath) -> str:
    """What is wrong with a key that is not legal where it stands, and what to do about it."""
    level, key = _level(path[:-1]), str(path[-1])
    return _known(draft, level, key) or _other_case(draft, level, key) or _typo(draft, level, key)


def _known(draft: Draft, level: str, key: str) -> str | None:
    """For names that mean something, here at another level, in a library or in another tool."""
    if (known := _known_to_library(draft, level, key)) is not None:
        return known
    if level == "training_args" and key in other_names.REMOVED:
        return f"no key of transformers any more; {other_names.REMOVED[key]}"
    if key in other_tools.ELSEWHERE:
        return f"unknown key; here it is {other_tools.ELSEWHERE[key]}"
    return _home(draft, level, key) or _not_here(key)


def _other_case(draft: Draft, level: str, key: str) -> str | None:
    """For `loraRank` and `lora-rank`."""
    snake = snake_case(key)
    if snake == key:
        return None
    if snake in _legal(draft, level):
        return f"unknown key; did you mean {snake}?"
    if snake not in other_tools.ELSEWHERE and (homes := _homes(level, snake)):
        return f"unknown key; did you mean {_at(homes[0], snake)}?"
    return _known(draft, level, snake)


def snake_case(name: str) -> str:
    """`lora_rank` for loraRank, LoraRank and lora-rank."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.replace("-", "_").lower()


def _typo(draft: Draft, level: str, key: str) -> str:
    legal, old = _legal(draft, level), other_names.OLD.get(level, {})
    close = closest(key, [*legal, *old])
    if (theirs := closest_of_theirs(key, close, _closest_elsewhere(key))) is not None:
        return f"unknown key; did you mean {theirs}? Here it is {other_tools.ELSEWHERE[theirs]}"
    if close is not None:
        return f"unknown key; did you mean {old.get(close, close)}?"
    if (far := _closest_elsewhere(key)) is not None:
        return f"unknown key; did you mean {far}?"
    where = level or "the file"
    if len(legal) > _FEW:
        return f"unknown key; configs/README.md lists those of {where}"
    return f"unknown key; {where} may have {', '.join(sorted(legal))}" if legal else "unknown key"


def closest_of_theirs(key: str, *rivals: str | None) -> str | None:
    """Another tool's name that `key` nearly is, where none of `rivals` (dotted keys of ours) is as near."""
    near = get_close_matches(key, other_tools.ELSEWHERE, n=1, cutoff=0.85)
    likest = max((_likeness(rival.rpartition(".")[2], key) for rival in rivals if rival), default=0.0)
    return near[0] if near and _likeness(near[0], key) > likest else None


def _likeness(word: str, other: str) -> float:
    return SequenceMatcher(None, other, word).ratio()


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` looks like most; None where none does."""
    matches = get_close_matches(word, list(known), n=1, cutoff=0.6)
    if not matches:
        folded = {name.lower().replace("-", "_"): name for name in known}
        matches = [
            folded[name] for name in get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
        ]
    return matches[0] if matches else None


def legal_keys(draft: Draft, path: KeyPath) -> frozenset[str]:
    """The keys that the map at `path` may have."""
    return _legal(draft, _level(path))


def _level(path: KeyPath) -> str:
    return dotted(tuple(key for key in path if isinstance(key, str)))


def _legal(draft: Draft, level: str) -> frozenset[str]:
    if level == "peft_config":
        section = TUNINGS.get(str(draft.get(("peft_config", "peft_type"))))
        return LEVELS[level] if section is None else _names(section)
    return LEVELS.get(level, frozenset())


def _known_to_library(draft: Draft, level: str, key: str) -> str | None:
    """For keys that transformers or peft know, and we do not honour."""
    library, default, advice = "transformers", None, None
    if level == "training_args" and key in transformers_keys.NOT_HONOURED:
        default, advice = transformers_keys.NOT_HONOURED[key], transformers_keys.ADVICE.get(key)
    elif level == "training_args.fsdp_config" and key in fsdp_keys.NOT_HONOURED:
        default, advice = fsdp_keys.NOT_HONOURED[key], fsdp_keys.ADVICE[key]
    elif level == "training_args.generation_config" and key in transformers_keys.GENERATION_KEYS:
        advice = "max_new_tokens counts the answer alone" if key == "max_length" else None
    elif level == "peft_config" and key in (known := _of_peft(draft)):
        library, default, advice = "peft", known[key], peft_keys.ADVICE.get(key)
    else:
        return None
    return _not_honoured(library, default, advice)


def _not_honoured(library: str, default: object, advice: str | None) -> str:
    rest = f"; {advice}" if advice else ""
    return f"{library} knows this key, finetune does not honour it; remove it (default: {spelt(default)}){rest}"


def _of_peft(draft: Draft) -> Mapping[str, object]:
    return peft_keys.NOT_HONOURED.get(str(draft.get(("peft_config", "peft_type"))), {})


def _home(draft: Draft, level: str, key: str) -> str | None:
    """For keys that are legal at another level, or go by another name here."""
    if level == "peft_config" and key in LEVELS["peft_config"]:
        kinds = [kind for kind, section in TUNINGS.items() if key in _names(section)]
        return f"no option of {draft.get(('peft_config', 'peft_type'))}; {' and '.join(kinds)} has it"
    homes = _homes(level, key)
    return f"belongs {_under(homes[0])}" if homes else None


def _homes(level: str, key: str) -> list[str]:
    """The other levels at which `key` is legal, under today's name or an old one."""
    homes = [other for other, names in LEVELS.items() if other != level and key in names]
    old = key in other_names.OLD["training_args"] and level != "training_args"
    return [*homes, "training_args"] if old else homes


def _not_here(key: str) -> str | None:
    """For what other tools have, and training_args of ours has without effect or not at all."""
    if key in other_tools.ABSENT:
        return f"unknown key; {other_tools.ABSENT[key]}"
    if key in transformers_keys.NO_EFFECT:
        return f"unknown key; remove it: {transformers_keys.NO_EFFECT[key].why}"
    if key in transformers_keys.NOT_HONOURED:
        return _not_honoured(
            "transformers", transformers_keys.NOT_HONOURED[key], transformers_keys.ADVICE.get(key)
        )
    return None


def _under(level: str) -> str:
    return f"under {level}" if level else "at the top level, outside every section"


def _closest_elsewhere(key: str) -> str | None:
    """A legal key of another level, dotted, that `key` nearly is; near misses only, to lead nobody astray."""
    places = {name: level for level, names in reversed(list(LEVELS.items())) for name in names}
    matches = get_close_matches(key, places, n=1, cutoff=0.85)
    return _at(places[matches[0]], matches[0]) if matches else None


def _at(level: str, key: str) -> str:
    return f"{level}.{key}".removeprefix(".")


def spelt(value: object) -> str:
    """A value as YAML spells it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case _:
            return str(value)
