"""JSON of files that somebody else may have made: config.json, adapter_config.json, run.json, an index.

Python's own reader ends with a RecursionError in what is nested a thousand levels deep, and what walks through
such values later breaks on less. Here all that cannot be used is one kind of ValueError, with its place.
(Records of data are read more strictly: data/reading/strict_json.py.)
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.errors import ModelError

DEEPEST = 100
"""Levels of a value. No checkpoint has ten."""
LARGEST = 64 * 2**20
"""Bytes of a file. The index of a checkpoint with 100,000 tensors has 10 million."""

_OF_A_MODEL = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "adapter_config.json",
)


class BadJSONError(ValueError):
    """What is wrong with a JSON text. place: ":LINE:COLUMN", or nothing where that cannot be told."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{place[1:]}: {reason}" if place else reason)
        self.reason, self.place = reason, place


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises BadJSONError: damaged, not UTF-8, or more than `DEEPEST` levels deep."""
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(plain)
    except UnicodeDecodeError as error:
        raise BadJSONError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadJSONError(error.msg, f":{error.lineno}:{error.colno}") from None
    except RecursionError:
        raise BadJSONError("nested too deeply") from None
    except ValueError as error:  # a number of too many digits
        raise BadJSONError(str(error)) from None
    if plain.count("[") + plain.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise BadJSONError(f"nested more than {DEEPEST} levels deep")
    return value


def read_json(path: Path) -> Any:
    """The value in a file. Raises OSError, and BadJSONError as `parse_json` does and beyond `LARGEST` bytes."""
    if path.stat().st_size > LARGEST:
        raise BadJSONError(f"larger than {LARGEST:,} bytes")
    return parse_json(path.read_bytes())


def check_json_files(folder: Path) -> None:
    """Read what libraries will read of a model's or adapter's folder. Raises ModelError with file and place."""
    for file in (folder / name for name in _OF_A_MODEL):
        if not file.is_file():
            continue
        try:
            value = read_json(file)
        except BadJSONError as error:
            what = f"{file}{error.place}: damaged: {error.reason}"
            raise ModelError(f"{what}; copy it again from where the model came from") from None
        except OSError as error:
            raise ModelError(f"{file}: {error.strerror}") from None
        if not isinstance(value, dict):
            raise ModelError(
                f"{file}:1:1: damaged: not a JSON object; copy it again from where the model came from"
            )


def _depth(value: Any) -> int:
    """Levels of lists and objects in a value; it stops counting behind `DEEPEST`."""
    level, depth = _containers([value]), 0
    while level and depth <= DEEPEST:
        held = (one.values() if isinstance(one, dict) else one for one in level)
        level, depth = _containers(part for parts in held for part in parts), depth + 1
    return depth


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, list | dict)]
