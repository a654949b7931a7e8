"""The adapter that a run goes on from (`model_config.adapter`): whole, and made for this base. No torch."""

from pathlib import Path

from finetune import log
from finetune.base import compare_base
from finetune.errors import ModelError
from finetune.folder import MANIFEST_FILE, RUN_FILE, verify


def check_adapter(adapter: Path, model: str) -> None:
    """Refuse what is no adapter, and one whose checkpoint tells that it was trained on another base.

    peft puts an adapter on any base of the same shape without a word. Raises ModelError, and CheckpointError
    for a damaged checkpoint.
    """
    if not (adapter / "adapter_config.json").is_file():
        hint = "a run; give one of its checkpoints" if (adapter / RUN_FILE).is_file() else "no adapter folder"
        raise ModelError(f"model_config.adapter: {adapter}: {hint}")
    if not (adapter / MANIFEST_FILE).is_file():
        return
    verify(adapter)
    other = compare_base(adapter, model)
    if other is None:
        return
    if not other.unknown:
        raise ModelError(f"model_config.adapter: {adapter}: {other}: another base model than {model}")
    log.warning(f"{adapter}: {other}; see to it that it was {model}")
