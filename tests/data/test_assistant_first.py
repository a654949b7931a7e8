"""Conversations that the assistant begins: told plainly where a template cannot print them, and cured."""

import json

import pytest

from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig
from finetune.data.checking.check import check_data
from finetune.data.dataset import load_examples
from finetune.errors import DataError
from tests.data.conftest import byte_tokenizer

TURN = "<|{{ m.role }}|>{{ m.content }}<|endoftext|>"
LOOKS_AT_FIRST = f"""{{%- if messages[0].role == 'system' %}}{{% endif -%}}
{{%- for m in messages -%}}{TURN}{{%- endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"""
ALTERNATES = f"""{{%- for m in messages -%}}
{{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}}{{{{ raise_exception('alternate') }}}}{{% endif -%}}
{TURN}{{%- endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"""
CONTEXT = 'write "train": false beside it, or set data_config.assistant_first: context'
DROP = "leave it out by data_config.assistant_first: drop"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(byte_tokenizer(), source, name="own.jinja")


@pytest.fixture
def learnt(tmp_path):
    def learnt(made: ChatTemplate, assistant_first: str = "train", **first) -> str:
        """The text of the one example, trained turns in brackets."""
        turns = [
            {"role": "assistant", "content": "Welcome.", **first},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]
        (tmp_path / "train.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
        config = DataConfig(train_file="train.jsonl", assistant_first=assistant_first)
        (example,) = load_examples(config, "train.jsonl", tmp_path, made, max_length=99)
        ids, mask = example.input_ids, example.loss_mask
        return f"{made.visible(ids[~mask].tolist())} [{made.visible(ids[mask].tolist())}]"

    return learnt


SHOWN = "<|assistant|>Welcome.<|endoftext|><|user|>Hi<|endoftext|><|assistant|> [Hello<|endoftext|>]"
LEFT_OUT = "<|user|>Hi<|endoftext|><|assistant|> [Hello<|endoftext|>]"


def test_a_template_without_a_prompt_for_it_says_so_and_both_cures_work(learnt):
    made = template(LOOKS_AT_FIRST)
    with pytest.raises(DataError) as refused:
        learnt(made)
    what = (
        "1:15: E301 message 1 (assistant) comes before any user's, and the chat template has no prompt for it"
    )
    assert f"{what}; {CONTEXT}" in str(refused.value)
    assert learnt(made, "context") == learnt(made, train=False) == SHOWN


def test_a_template_whose_turns_alternate_says_so_and_leaving_the_turn_out_works(learnt):
    made = template(ALTERNATES)
    for first in ({}, {"train": False}):
        with pytest.raises(DataError, match=f"the chat template cannot begin with it; {DROP}"):
            learnt(made, **first)
    assert learnt(made, "drop") == LEFT_OUT


def test_where_the_template_prints_it_it_is_learnt_unless_it_shall_not_be(learnt, glm4):
    assert learnt(glm4).endswith("[\nWelcome.<|user|>\nHello<|user|>]")
    assert learnt(glm4, "context").endswith("[\nHello<|user|>]")
    assert "Welcome" not in learnt(glm4, "drop")


def test_nothing_but_answers_cannot_lose_them_all(tmp_path, glm4):
    turns = [{"from": "gpt", "value": "Welcome."}, {"from": "gpt", "value": "Ask me."}]
    (tmp_path / "train.json").write_text(json.dumps([{"conversations": turns}]), encoding="utf-8")
    assert check_data(tmp_path / "train.json", glm4).findings.errors == 0
    config = DataConfig(train_file="train.json", assistant_first="drop")
    with pytest.raises(DataError, match="E205 no user's turn"):
        load_examples(config, "train.json", tmp_path, glm4, max_length=99)
