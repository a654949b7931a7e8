"""Writing tokenizer and chat template into a folder of their own."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from finetune.chat.sight import PROCESSOR_FILES, Sight, bounds, processor_settings
from finetune.plain_json import read_json

TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
TEXT_TOKENS = "special_tokens_in_text"
"""In tokenizer_config.json: the control tokens that texts may write."""

_FILES = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def save_processor(sight: Sight, folder: Path) -> None:
    """Copy what tells how a checkpoint's images are processed, with the bounds of size that `sight` has."""
    folder.mkdir(parents=True, exist_ok=True)
    if sight.folder.resolve() == folder.resolve():
        return
    for name in (*PROCESSOR_FILES, "video_preprocessor_config.json"):
        if (sight.folder / name).is_file():
            shutil.copyfile(sight.folder / name, folder / name)
    if bounds(processor_settings(folder)) != (sight.least, sight.most):
        for name in PROCESSOR_FILES:
            if (folder / name).is_file():
                _bound(folder / name, sight)


def _bound(file: Path, sight: Sight) -> None:
    """Let an image processor's file say how large a picture may be."""
    content = read_json(file)
    settings = content.get("image_processor", content)
    if "image_processor_type" in settings:
        settings.pop("min_pixels", None)
        settings.pop("max_pixels", None)
        settings["size"] = sight.size
        file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def save_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    source: str,
    origin: Path | None,
    folder: Path,
    text_tokens: Sequence[str] = (),
) -> None:
    """Copy the files a tokenizer was loaded from, byte for byte, or write them anew; then the template.

    text_tokens: kept in tokenizer_config.json, so that texts are encoded for the model as it learnt them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = _readable_config(origin)
    if origin is None or config is None:
        tokenizer.chat_template = source
        tokenizer.save_pretrained(str(folder))
    elif origin.resolve() != folder.resolve():
        for name in _FILES:
            if (origin / name).is_file():
                shutil.copyfile(origin / name, folder / name)
        _write_config(origin / CONFIG_FILE, config, source, folder / CONFIG_FILE)
    _keep_text_tokens(folder / CONFIG_FILE, text_tokens)
    (folder / TEMPLATE_FILE).write_text(source, encoding="utf-8", newline="")


def _keep_text_tokens(file: Path, text_tokens: Sequence[str]) -> None:
    if not text_tokens or not file.is_file():
        return
    config = read_json(file)
    if config.get(TEXT_TOKENS) != list(text_tokens):
        config[TEXT_TOKENS] = list(text_tokens)
        file.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _readable_config(origin: Path | None) -> dict[str, object] | None:
    """tokenizer_config.json of a folder whose files can be copied; None where Python code belongs to them."""
    if origin is None or not (origin / "tokenizer.json").is_file() or not (origin / CONFIG_FILE).is_file():
        return None
    config: dict[str, object] = read_json(origin / CONFIG_FILE)
    return None if "auto_map" in config else config


def _write_config(origin: Path, config: dict[str, object], source: str, path: Path) -> None:
    """The same bytes, unless they hold another template than ours."""
    if config.get("chat_template", source) == source:
        shutil.copyfile(origin, path)
        return
    kept = {key: value for key, value in config.items() if key != "chat_template"}
    path.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
