"""Our own chat templates, for checkpoints without one: which suits, and what a tokenizer lacks for it."""

import re
from collections.abc import Collection, Mapping

from transformers import PreTrainedTokenizerFast

from finetune.shipped import TEMPLATES

_MARKS = re.compile(r"<\|\w+\|>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>")
"""What stands for a control token in a template."""

_TOKENS: Mapping[str, tuple[str, ...]] = {
    "glm4": ("[gMASK]", "<|user|>", "<|assistant|>", "<|observation|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}
"""Template -> the tokens of a tokenizer that was made for it."""

CHOICE = f"{', '.join(TEMPLATES)}, or a Jinja file"


def suggest(tokenizer: PreTrainedTokenizerFast, *, tools: bool) -> tuple[str, str]:
    """Which of our templates suits a tokenizer, and why; `tools`: the data has some."""
    known = _known(tokenizer)
    for name, tokens in _TOKENS.items():
        if known.issuperset(tokens) and not (tools and name == "gemma"):
            return name, f"the tokenizer has {tokens[-1]}"
    name = "chatml-tools" if tools else "chatml"
    if "<|im_end|>" in known:
        return name, "the tokenizer has <|im_end|>"
    return name, "the plainest; this tokenizer has no token for its marks"


def lacking(tokenizer: PreTrainedTokenizerFast, source: str) -> list[str]:
    """The marks that a template writes and this tokenizer has no token for, in the order they are written."""
    known: Collection[str] = _known(tokenizer)
    code = re.sub(r"{#.*?#}", "", source, flags=re.DOTALL)
    return [mark for mark in dict.fromkeys(_MARKS.findall(code)) if mark not in known]


def what_lacking_means(tokenizer: PreTrainedTokenizerFast, marks: list[str], stop: str) -> str:
    """What it means that such marks are plain characters."""
    tokens = len(tokenizer.encode(marks[0], add_special_tokens=False))
    return (
        f"the tokenizer has no token for {', '.join(marks)}: they are written as plain characters ({marks[0]} "
        f"as {tokens} tokens). Training stays exact, but turns are longer, a text that spells them reads like "
        f"a border, and the model stops by {stop}; a base whose tokenizer has them is better"
    )


def _known(tokenizer: PreTrainedTokenizerFast) -> set[str]:
    return {token.content for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values()}
