"""The adapter that a run goes on from (`model_config.adapter`): whole, and made for this base. No torch."""

from pathlib import Path

from finetune import log
from finetune.errors import ModelError
from finetune.folder import MANIFEST_FILE, RUN_FILE, verify
from finetune.train.checkpoint.identity import base_identity


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
    trained_on, base = verify(adapter).identity["base"], base_identity(model)
    if ("id" in trained_on) != ("id" in base):
        log.warning(f"{adapter}: was trained on a base given in another way; see to it that it was {model}")
    elif trained_on != base:
        raise ModelError(f"model_config.adapter: {adapter}: was trained on another base model than {model}")
