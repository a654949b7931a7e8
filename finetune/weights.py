"""Which files a checkpoint says its weights lie in: names inside its own folder, and safetensors only.

Loaders follow an index wherever it points, and unpickle what does not end in `.safetensors`; so it is checked
before any of them sees it.
"""

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from finetune.errors import ModelError, UntrustedContentError
from finetune.plain_json import read_json

INDEX_FILE = "model.safetensors.index.json"
_ENDING = ".safetensors"


def is_plain(name: object) -> bool:
    """Whether this names a safetensors file in the same folder, and nothing else."""
    if not isinstance(name, str) or not name.endswith(_ENDING) or "\0" in name:
        return False
    return PurePosixPath(name).parts == (name,) == PureWindowsPath(name).parts


def indexed_files(index: Path) -> list[str]:
    """The names of the weight files in an index.

    Raises UntrustedContentError for one that lies elsewhere or is no safetensors file, ModelError for an index
    that is damaged.
    """
    try:
        content = read_json(index)
        names = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{index}: cannot be used: {error!r}") from None
    for name in names:
        if not is_plain(name):
            raise UntrustedContentError(f"{index}: names {name!r} as a weight file; {_RULE}")
    return names


_RULE = (
    "only safetensors files in the same folder are read, because others may run code when loaded: "
    "convert the checkpoint to safetensors, or get it from where you trust it"
)


def check_weight_files(folder: Path) -> None:
    """Refuse a folder with an index that names anything but safetensors files of the folder itself."""
    for index in sorted(folder.glob(f"*{_ENDING}.index.json")):
        for name in indexed_files(index):
            if not (folder / name).is_file():
                raise ModelError(f"{index}: names {name}, which is not there; the checkpoint is incomplete")


def check_named_weights(model: str | Path, config: dict[str, Any]) -> None:
    """Refuse a config.json whose `transformers_weights` is no plain name of a safetensors file."""
    named = config.get("transformers_weights")
    if named is not None and not is_plain(named):
        raise UntrustedContentError(f"{model}: config.json: transformers_weights is {named!r}; {_RULE}")
