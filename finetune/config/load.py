"""YAML and overrides to a frozen Config; or one ConfigError that tells every mistake, each where it stands."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune.config.deepspeed_checks import check_deepspeed
from finetune.config.document import read_document
from finetune.config.draft import Draft, KeyPath, Place, dotted
from finetune.config.files import resolve_files
from finetune.config.legacy import translate
from finetune.config.library_options import check_options
from finetune.config.mistakes import in_reading_order, likely_peft_type, note_mistakes
from finetune.config.overrides import override
from finetune.config.permissions import Permissions, without_permissions
from finetune.config.schema import Config, Provenance
from finetune.errors import ConfigError
from finetune.printing import Lines
from finetune.redaction import learn_settings
from finetune.shipped import find_shipped

__all__ = ["find_shipped", "load_config", "parse_config", "recorded_config"]


def load_config(
    config: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    data_dir: str | Path | None = None,
) -> Config:
    """Read a YAML file, change it by `overrides` ("training_args.learning_rate=1e-4"), and check all of it.

    A map of the same keys is taken in the place of a file. With `data_dir`, the data files must exist, too.
    Raises one ConfigError with a line for every mistake.
    """
    place = None if data_dir is None else Path(data_dir)
    if isinstance(config, Mapping):
        return _finish(_draft_of(config, "config"), overrides, place)
    return _finish(read_document(Path(config)), overrides, place)


def parse_config(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Config:
    """A Config from what `Config.as_yaml()` gave; `source` is what mistakes are said to stand in."""
    return _finish(_draft_of(values, source), overrides, None)


def _draft_of(values: Mapping[str, Any], source: str) -> Draft:
    draft = Draft(source, deepcopy(dict(values)))
    draft.places[()] = Place(source)
    return draft


def recorded_config(
    values: Mapping[str, Any], source: str, permissions: Permissions, overrides: Sequence[str] = ()
) -> tuple[Config, list[str]]:
    """The Config that an earlier run wrote down, with the permissions of this command alone.

    Also returns a line for each permission of the record that does not count.
    """
    kept, lines = without_permissions(values)
    config = parse_config(kept, source, [*overrides, *permissions.overrides()])
    return config, [f"{source}: {line}" for line in lines]


def _finish(draft: Draft, overrides: Sequence[str], data_dir: Path | None) -> Config:
    for text in overrides:
        override(draft, text)
    learn_settings(draft.values)
    translate(draft)
    resolve_files(draft, data_dir)
    check_deepspeed(draft)
    check_options(draft)
    config = _validate(draft)
    if config is None or draft.mistakes:
        mistakes = in_reading_order(draft.mistakes, draft.source)
        raise ConfigError(Lines(dict.fromkeys(str(mistake) for mistake in mistakes)))
    return config


def _validate(draft: Draft) -> Config | None:
    """The Config, or None when there are mistakes.

    What is wrong is noted, put aside, and the rest looked at once more: conflicts between keys show only
    where every single value is right.
    """
    warnings = tuple(map(str, in_reading_order(draft.warnings, draft.source)))
    provenance = Provenance(_origins(draft), tuple(draft.notices), warnings)
    values = deepcopy(draft.values)
    aside: set[KeyPath] = set()
    while True:
        try:
            return Config.model_validate(values, context=provenance)
        except ValidationError as error:
            wrong = note_mistakes(draft, error, aside)
        if not _put_aside(values, wrong):
            return None
        aside |= wrong


def _put_aside(values: dict[str, Any], wrong: set[KeyPath]) -> bool:
    """Take what is wrong out of `values`; False when there is nothing left to take."""
    taken = False
    for path in wrong:
        if path == ("peft_config",) and (kind := likely_peft_type(values["peft_config"])) is not None:
            taken |= values["peft_config"].get("peft_type") != kind
            values["peft_config"]["peft_type"] = kind  # so that the mistakes beside it show, too
            continue
        # A list goes as a whole: without one of its items it would be another list.
        in_list = next((i for i, key in enumerate(path) if isinstance(key, int)), len(path))
        *parents, key = path[:in_list] or ("",)
        parent: Any = values
        for name in parents:
            parent = parent.get(name, {})
        taken |= parent.pop(key, values) is not values
    return taken


def _origins(draft: Draft) -> dict[str, str]:
    return {
        dotted(path): place.origin
        for path, place in draft.keys.items()
        if draft.has(path) and not isinstance(draft.get(path), dict)
    }
