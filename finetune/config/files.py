"""The files that a configuration names, found at once: a wrong name must not cost a model's loading."""

import re
from collections.abc import Iterator
from pathlib import Path

from finetune.config.draft import Draft, KeyPath
from finetune.config.names import closest
from finetune.shipped import SHIPPED, TEMPLATES, find_shipped, template_file

DATA_SUFFIXES = (
    ".jsonl",
    ".jsonlines",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".zip",
)
PACKED_SUFFIXES = (".gz", ".zst")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")


def is_hub_id(name: str) -> bool:
    """Whether `name` can only mean a data set on the Hub: `owner/name`, no file, and no data file's ending."""
    is_file = name.lower().endswith((*DATA_SUFFIXES, *PACKED_SUFFIXES)) or Path(name).exists()
    return not is_file and _HUB_ID.fullmatch(name) is not None


def resolve_files(draft: Draft, data_dir: Path | None) -> None:
    """Replace names by absolute paths that exist; what cannot be found is noted as a mistake.

    Absolute, because a run can be repeated from another folder.
    """
    _resolve(draft, ("training_args", "deepspeed"), shipped=True)
    _name_template(draft)
    _make_absolute(draft, ("model_config", "adapter"))
    if data_dir is not None:
        for path in _data_files(draft):
            _check_data_file(draft, path, data_dir)


def _name_template(draft: Draft) -> None:
    """A chat template is a file, or one of our own by its name."""
    path: KeyPath = ("model_config", "chat_template")
    name = draft.get(path)
    if isinstance(name, str) and name in TEMPLATES and _beside(draft, name) is None:
        draft.get(path[:-1])[path[-1]] = str(template_file(name).absolute())
    else:
        _resolve(draft, path, shipped=False)


def _beside(draft: Draft, name: str) -> Path | None:
    """The file of that name from here, beside the YAML or above it."""
    beside = Path(draft.source).parent
    places = [Path(name).expanduser(), beside / name, beside.parent / name]
    return next((place for place in places if place.is_file()), None)


def _resolve(draft: Draft, path: KeyPath, *, shipped: bool) -> None:
    name = draft.get(path)
    if not isinstance(name, str):
        return
    found = _beside(draft, name)
    if found is None and shipped:
        found = find_shipped(Path(name).name)
    if found is not None:
        draft.get(path[:-1])[path[-1]] = str(found.absolute())
        return
    where = "from here, beside the YAML, in its parent" + (" and among the shipped files" if shipped else "")
    hint = _shipped_hint(name) if shipped else _template_hint(name)
    draft.refuse(path, f"no file {name}; looked {where}{hint}", value=True)


def _template_hint(name: str) -> str:
    close = closest(name, list(TEMPLATES))
    return f"; did you mean {close}?" if close else f"; our own are {', '.join(TEMPLATES)}"


def _make_absolute(draft: Draft, path: KeyPath) -> None:
    """For what may be a folder here or an id on the Hub."""
    name = draft.get(path)
    if isinstance(name, str) and Path(name).expanduser().exists():
        draft.get(path[:-1])[path[-1]] = str(Path(name).expanduser().absolute())


def _shipped_hint(name: str) -> str:
    names = sorted({file.name for folder in SHIPPED for file in folder.glob("*.json")})
    close = closest(Path(name).name, names)
    return f"; did you mean {close}?" if close else ""


def _data_files(draft: Draft) -> Iterator[KeyPath]:
    train = draft.get(("data_config", "train_file"))
    if isinstance(train, list):
        yield from (("data_config", "train_file", i, "file") for i in range(len(train)))
    else:
        yield ("data_config", "train_file")
    validation = draft.get(("data_config", "val_file"))
    if isinstance(validation, list | dict):
        places = range(len(validation)) if isinstance(validation, list) else validation
        yield from (("data_config", "val_file", place) for place in places)
    else:
        yield ("data_config", "val_file")
    yield ("data_config", "test_file")
    yield ("evaluation", "retain_file")


def _check_data_file(draft: Draft, path: KeyPath, data_dir: Path) -> None:
    name = draft.get(path)
    if not isinstance(name, str) or (data_dir / name).exists() or Path(name).expanduser().exists():
        return
    if is_hub_id(name):
        return
    if not data_dir.is_dir():
        draft.refuse(path, f"no file {name} here, and no folder {data_dir}", value=True)
        return
    there = sorted(file.name for file in data_dir.glob("[!.]*"))
    close = closest(name, there)
    hint = f"; did you mean {close}?" if close else f"; it holds {', '.join(there[:8]) or 'nothing'}"
    draft.refuse(path, f"no file {name} in {data_dir}, nor from here{hint}", value=True)
