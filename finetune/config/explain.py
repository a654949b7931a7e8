"""`finetune explain KEY`: what a key of the YAML is, and what an older name or another tool's is here."""

import inspect
import re
from collections.abc import Iterator, Mapping

from finetune.config import fsdp_keys, other_names, other_tools, peft_keys, transformers_keys
from finetune.config.arguments import OWNERS
from finetune.config.examples import example_lines
from finetune.config.keys import PLACES, Key, every_key
from finetune.config.legacy import RENAMED
from finetune.config.names import closest, closest_of_theirs, snake_case, spelt
from finetune.config.tuning import TUNINGS
from finetune.errors import ConfigError, some_of

_ROOMS: Mapping[str, str] = {
    "": "data/ (training), eval/ (evaluation)",
    "data_config": "data/",
    "model_config": "model/load.py",
    "peft_config": "model/tuning.py",
    "training_args": "train/",
    "run": "train/",
    "evaluation": "eval/",
}
"""First part of a key's place -> the room of the code that reads it."""


def overview() -> list[str]:
    """All sections and keys, one line each."""
    lines = ["finetune explain KEY tells more about one of these. In configs/README.md they stand on one page."]
    for level in PLACES:
        lines += ["", level or "at the top level", *_listing(level)]
    return lines


def explain(name: str) -> list[str]:
    """What there is to say about a key, a section, an old name or another tool's. Raises ConfigError."""
    asked = name.strip().strip(".:")
    for said in (_ours(asked), _theirs(asked)):
        if said:
            return said
    folded = snake_case(asked)
    if folded != asked:
        return explain(folded)
    raise ConfigError(_unknown(asked))


def _ours(name: str) -> list[str]:
    keys = [key for key in every_key() if name in (key.path, key.name)]
    pages = [line for i, key in enumerate(keys) for line in ([""] * bool(i)) + _page(key)]
    if name.upper() in TUNINGS:
        return _kind(name.upper())
    level = next((level for level in PLACES if level and name in (level, level.rpartition(".")[2])), None)
    return [*pages, "", f"keys of {level}", *_listing(level)] if level else pages


def _kind(kind: str) -> list[str]:
    """A peft_type and its keys."""
    return [f"peft_type: {kind}", f"    {inspect.getdoc(TUNINGS[kind])}", "", *_listing("peft_config", kind)]


def _page(key: Key) -> list[str]:
    """Everything about one key."""
    others = [name for name, here in other_tools.ELSEWHERE.items() if _place(here) == key.path]
    facts = {
        "value": key.value.replace("`", ""),
        "default": key.default,
        "peft_type": ", ".join(key.kinds) if len(key.kinds) < len(TUNINGS) else "",
        "read by": _reader(key),
        "elsewhere": some_of(others, 6),
    }
    lines = [key.path, f"    {key.text}", ""]
    lines += [f"    {fact + ':':11}{said}" for fact, said in facts.items() if said]
    if key.path in PLACES:
        return lines
    return [*lines, "    example:", *(f"        {line}" for line in example_lines(key))]


def _reader(key: Key) -> str:
    room = _ROOMS.get(key.path.partition(".")[0], _ROOMS[""])
    group = OWNERS.get(key.name, "").strip("<>") if key.level == "training_args" else ""
    return f"{room} ({group})" if group else room


def _listing(level: str, kind: str | None = None) -> Iterator[str]:
    keys = [key for key in every_key() if key.level == level and (kind is None or kind in key.kinds)]
    width = max(len(key.name) for key in keys)
    return (f"    {key.name:{width}}  {key.text}" for key in keys)


def _theirs(name: str) -> list[str]:
    """For an old name, another tool's, or a key of transformers and peft that is not honoured."""
    last = name.rpartition(".")[2]
    renamed = {old[-1]: ".".join(map(str, new)) for old, new in RENAMED.items()}
    here = renamed.get(last) or _OLD.get(last) or other_tools.ELSEWHERE.get(last)
    if here is not None:
        return [f"{last}: here it is {here}", *_page_at(_place(here))]
    why = _why_not(last)
    return [f"{last}: {why}"] if why else []


_OLD: Mapping[str, str] = {
    **other_names.OLD[""],
    "adafactor": "training_args.optim: adafactor",
    "swanlab": "training_args.report_to: swanlab",
}


def _place(here: str) -> str:
    """The dotted key that "peft_config.target_modules: all-linear" begins with; empty where it names none."""
    words = re.match(r"\w+(\.\w+)*", here)
    return words[0] if words else ""


def _page_at(path: str) -> list[str]:
    return [line for key in every_key() if key.path == path for line in ("", *_page(key))]


def _why_not(key: str) -> str | None:
    """Why a key that is known elsewhere has no place here."""
    if key in other_tools.ABSENT:
        return other_tools.ABSENT[key]
    if key in transformers_keys.NO_EFFECT:
        return f"accepted in training_args without effect: {transformers_keys.NO_EFFECT[key].why}"
    if key in other_names.REMOVED:
        return f"no key of transformers any more; {other_names.REMOVED[key]}"
    if key in transformers_keys.NOT_HONOURED:
        default, advice = transformers_keys.NOT_HONOURED[key], transformers_keys.ADVICE.get(key)
        return _not_honoured("training_args", default, advice)
    if key in transformers_keys.GENERATION_KEYS:
        return _not_honoured("training_args.generation_config", None, None)
    if key in fsdp_keys.NO_EFFECT:
        return f"accepted in training_args.fsdp_config without effect: {fsdp_keys.NO_EFFECT[key].why}"
    if key in fsdp_keys.NOT_HONOURED:
        return _not_honoured("training_args.fsdp_config", fsdp_keys.NOT_HONOURED[key], fsdp_keys.ADVICE[key])
    for known in peft_keys.NOT_HONOURED.values():
        if key in known:
            return _not_honoured("peft_config", known[key], peft_keys.ADVICE.get(key))
    return None


def _not_honoured(level: str, default: object, advice: str | None) -> str:
    known = f"a key of {level} that finetune does not honour; at {spelt(default)}, its default, it is accepted"
    return f"{known}; {advice}" if advice else known


def _unknown(name: str) -> str:
    last = name.rpartition(".")[2]
    known = {key.name: key.path for key in every_key()}
    close = closest(last, known)
    near = closest_of_theirs(last, close) or known.get(close or "")
    return f"{name}: no key of the YAML; " + (
        f"did you mean {near}?" if near else "finetune explain lists them"
    )
