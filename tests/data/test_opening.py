"""Which tokens a prefix starts as. A token is a byte or a control token."""

import json
from pathlib import Path
from typing import Literal

import pytest

from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig
from finetune.data.dataset import load_examples
from finetune.data.opening import opening_tokens

HEAD = "[gMASK]<sop><|user|>"


@pytest.mark.parametrize(
    ("how", "text", "count", "expected"),
    [
        ("text", None, 8, f"{HEAD}\nabba"),
        ("text", None, 21, f"{HEAD}\nabba<|assistant|>\nbb<|user|>{HEAD}\nabba"),
        ("text", "cab", 5, f"{HEAD}ca"),
        ("text", "cab", 10, f"{HEAD}cabcabc"),
        ("text", "<|system|>c", 7, f"{HEAD}<|system|>c<|system|>c"),
        ("text", "", 4, f"{HEAD}[gMASK]"),
        ("tokens", None, 6, f"{HEAD}ba\n"),
        ("tokens", None, 9, f"{HEAD}ba\n<|assistant|>[gMASK]<sop>"),
    ],
)
def test_a_prefix_starts_as(
    how: Literal["text", "tokens"],
    text: str | None,
    count: int,
    expected: str,
    glm4: ChatTemplate,
    tmp_path: Path,
) -> None:
    said = [{"role": "user", "content": "abba"}, {"role": "assistant", "content": "bb"}]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    config = DataConfig(train_file="train.jsonl")
    examples = load_examples(config, "train.jsonl", tmp_path, glm4, max_length=100)
    ids = opening_tokens(how, text, count, examples, glm4)
    assert (len(ids), glm4.tokenizer.decode(ids)) == (count, expected)
