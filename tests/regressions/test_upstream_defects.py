"""What GLM-4's finetune_demo of October 2024 got wrong, each with its test. Images are left out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune.chat.load import load_template
from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig
from finetune.config.tuning import LoraTuning, PrefixTuning
from finetune.data.dataset import Examples, load_conversations, load_examples
from finetune.data.encode import Example
from finetune.errors import ConfigError, DataError
from finetune.eval import metrics
from finetune.eval.evaluate import ask
from finetune.folder import read_run
from finetune.model.attention import FLAT
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.tuning import apply_tuning
from finetune.train.proofs import check_first_gradients
from finetune.train.run import train
from tests.train.conftest import LORA, PREFIX, Configure

TOOL = {
    "type": "function",
    "function": {"name": "sky", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}
CALL = {"role": "assistant", "content": '{"name": "sky", "arguments": {"at": "mill"}}'}
TWO_TURNS = [
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": "second"},
    {"role": "assistant", "content": "blue"},
]
WITH_TOOL = [
    {"role": "system", "content": "", "tools": [TOOL]},
    {"role": "user", "content": "the sky at the mill?"},
    CALL,
    {"role": "observation", "content": "clear"},
    {"role": "assistant", "content": "It is clear."},
]


@pytest.fixture
def template(small: Path) -> ChatTemplate:
    return load_template(small)


def encoded(template: ChatTemplate, folder: Path, *records: Any, **config: Any) -> Examples:
    """The examples of a file with these records."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "t.jsonl").write_text(text, encoding="utf-8")
    longest = config.pop("max_length", 2000)
    section = DataConfig(train_file="t.jsonl", **config)
    return load_examples(section, "t.jsonl", folder, template, max_length=longest)


def learnt(template: ChatTemplate, example: Example) -> str:
    return template.tokenizer.decode(example.input_ids[example.loss_mask])


def test_1_combine_learns_the_whole_last_turn_and_counts_those_it_leaves_out(
    template: ChatTemplate, tmp_path: Path
) -> None:
    last = encoded(template, tmp_path, {"messages": TWO_TURNS}, train_on="last")
    assert learnt(template, last[0]) == "\nblue<|user|>"
    assert last.ledger.as_dict()["turns_left_out"] == 1
    every = encoded(template, tmp_path, {"messages": TWO_TURNS})
    assert learnt(template, every[0]) == "\nred<|user|>\nblue<|user|>"


def test_2_a_call_learns_to_end_for_its_result_and_an_answer_for_the_user(
    template: ChatTemplate, tmp_path: Path
) -> None:
    found = learnt(template, encoded(template, tmp_path, {"messages": WITH_TOOL})[0])
    assert found == 'sky\n{"at": "mill"}<|observation|>\nIt is clear.<|user|>'


def test_3_a_prompt_never_holds_its_reference(template: ChatTemplate, tmp_path: Path) -> None:
    encoded(template, tmp_path, {"messages": TWO_TURNS})
    samples = load_conversations(DataConfig(train_file="t.jsonl"), "t.jsonl", tmp_path)
    questions, _ = ask(template, samples, turns="all", max_input_length=None)
    texts = [template.tokenizer.decode(question.prompt.ids) for question in questions]
    assert texts == [
        "[gMASK]<sop><|user|>\nfirst<|assistant|>",
        "[gMASK]<sop><|user|>\nfirst<|assistant|>\nred<|user|>\nsecond<|assistant|>",
    ]


def test_4_a_plain_sample_and_one_with_tools_share_a_file_and_no_null_reaches_a_prompt(
    template: ChatTemplate, tmp_path: Path
) -> None:
    filled = json.loads(json.dumps(WITH_TOOL))
    filled[0]["tools"][0]["function"]["parameters"]["properties"]["at"]["enum"] = None
    plain = [message | {"tools": None, "metadata": None, "image": None} for message in TWO_TURNS]
    examples = encoded(template, tmp_path, {"messages": plain}, {"messages": filled})
    assert examples.ledger.as_dict()["trained"] == 2
    for example in examples:
        text = template.tokenizer.decode(example.input_ids)
        assert "null" not in text and "None" not in text


def test_5_a_conversation_cut_to_nothing_is_counted_and_never_trained(
    template: ChatTemplate, tmp_path: Path
) -> None:
    long = [{"role": "user", "content": "q " * 300}, {"role": "assistant", "content": "a " * 300}]
    for overflow in ("drop", "truncate-left"):
        records = ({"messages": long}, {"messages": TWO_TURNS})
        examples = encoded(template, tmp_path, *records, max_length=60, overflow=overflow)
        assert examples.supervised.min() > 0
        assert (examples.ledger.as_dict()["too_long"], len(examples)) == (1, 1)


def test_6_an_empty_prediction_scores_0_and_no_special_token_is_text(template: ChatTemplate) -> None:
    assert set(metrics.score("", "red").values()) == {0.0}
    assert set(metrics.score("  \n", "red").values()) == {0.0}
    answer = template.tokenizer.convert_tokens_to_ids(["<|user|>"])
    assert template.parse(answer).content == ""
    ids = template.tokenizer("\nred", add_special_tokens=False)["input_ids"]
    assert template.parse([*ids, *answer]).content == "red"
    assert metrics.score(template.parse([*ids, *answer]).content, "red")["rouge-1"] == 100.0


@pytest.mark.parametrize("projection", [False, True])
def test_7_a_prefix_learns_from_the_first_step_on(projection: bool, small: Path) -> None:
    tuning = PrefixTuning(peft_type="PREFIX_TUNING", num_virtual_tokens=4, prefix_projection=projection)
    tuned = apply_tuning(AutoModelForCausalLM.from_pretrained(small, attn_implementation=FLAT), tuning)
    batch = collate([Example(torch.arange(9).int().numpy(), (torch.arange(9) > 3).numpy())] * 2)
    SupervisedLoss(tuned, flat=True)(batch).backward()
    check_first_gradients((name, parameter.grad) for name, parameter in tuned.trainable())
    assert all(parameter.grad.any() for _, parameter in tuned.trainable())


def test_7_a_prefix_with_gradient_checkpointing_is_refused(
    small: Path, data: Path, configure: Configure
) -> None:
    with pytest.raises(ConfigError, match="gets no gradient through recomputed activations"):
        train(data, str(small), configure(PREFIX, gradient_checkpointing=True))


def test_8_what_is_frozen_leaves_the_adapters_on_it_alone(small: Path) -> None:
    tuning = LoraTuning(peft_type="LORA", target_modules=["q_proj"])
    free, frozen = (
        apply_tuning(AutoModelForCausalLM.from_pretrained(small), tuning, freeze=patterns)
        for patterns in ((), ("layers", "q_proj"))
    )
    assert dict(free.trainable()).keys() == dict(frozen.trainable()).keys() != set()


def test_10_a_missing_file_is_told_before_a_model_is_looked_for(data: Path, configure: Configure) -> None:
    (data / "dev.jsonl").unlink()
    with pytest.raises(ConfigError) as refused:
        train(data, "/nowhere/model", configure(LORA))
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()] == [
        "data_config.val_file",
        "data_config.test_file",
    ]


def test_11_an_unknown_role_is_refused_by_line(template: ChatTemplate, tmp_path: Path) -> None:
    robot = [{"role": "robot", "content": "beep"}, TWO_TURNS[1]]
    with pytest.raises(DataError, match=r"t\.jsonl:2:24: E204 message 1 has role 'robot'; expected system"):
        encoded(template, tmp_path, {"messages": TWO_TURNS}, {"messages": robot})


def test_12_no_id_is_assumed(template: ChatTemplate, tmp_path: Path) -> None:
    glm_4_9b = {151329, 151331, 151333, 151336, 151337, 151338}
    example = encoded(template, tmp_path, {"messages": WITH_TOOL})[0]
    assert not glm_4_9b & set(example.input_ids.tolist())
    names = ["[gMASK]", "<sop>", "<|system|>"]
    assert example.input_ids[:3].tolist() == template.tokenizer.convert_tokens_to_ids(names)
    assert set(template.stop_ids) == set(
        template.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|user|>", "<|observation|>"])
    )


def test_13_and_14_predictions_are_kept_and_checkpoints_talk(
    small: Path, data: Path, configure: Configure, template: ChatTemplate
) -> None:
    output = train(data, str(small), configure(LORA, max_steps=1, predict_with_generate=True))
    lines = (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    assert len(kept) == 6
    assert all(row["prompt"] and row["reference"] and "prediction" in row for row in kept)
    assert read_run(output)["result"]["evaluation"]["scores"].keys() >= {"rouge-l", "bleu-4"}
    assert load_template(output / "checkpoint-1").fingerprint == template.fingerprint
