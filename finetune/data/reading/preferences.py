"""Preference data: answers that are marked good or bad. Learnt as answers, the bad ones would be taught."""

from collections.abc import Mapping
from typing import Any

from finetune.data.reading.fields import WrongRecordError

_PAIRED = (
    "chosen",
    "rejected",
    "rejected_response",
    "rejected_messages",
    "rejected_output",
    "rejected_images",
    "preferred_output",
    "non_preferred_output",
    "kto_tag",
)
"""Keys of pairs of answers: TRL, LLaMA-Factory, ms-swift, OpenAI; and LLaMA-Factory's mark of one answer."""

_ANSWERS = frozenset(("messages", "conversations", "completion", "output", "response", "answer"))


def refuse_preferences(data: Mapping[str, Any]) -> None:
    """Raises WrongRecordError for a record of DPO, KTO and their like, whatever else it holds."""
    key = next((key for key in _PAIRED if data.get(key) is not None), None)
    if key is None and _is_verdict(data.get("label")) and not _ANSWERS.isdisjoint(data):
        key = "label"
    if key is not None:
        reason = f'preference data ("{key}"): an answer that is marked bad must not be learnt'
        advice = "DPO, KTO and the like are not done yet; keep the good answers, without the marks"
        raise WrongRecordError("E223", f"{reason}; {advice}", (key,))


def _is_verdict(label: Any) -> bool:
    """KTO's true or false, in a table perhaps as text. A number is a class, of another kind of training."""
    return isinstance(label, bool) or (isinstance(label, str) and label.lower() in ("true", "false"))
