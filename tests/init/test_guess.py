"""The guesses, by what they rest on: data in, values and reasons out."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.init.guess import Guess, Method, Survey, guess, quoted

SURVEY = Survey(
    train=("train.jsonl",),
    val="dev.jsonl",
    test="test.jsonl",
    rows={"train.jsonl": 5_000, "dev.jsonl": 100, "test.jsonl": 100},
    format="messages",
    why='records have "messages"',
    lengths={50: 200, 90: 400, 95: 500, 99: 800, 100: 1_000},
    answers={50: 50, 90: 100, 95: 125, 99: 200, 100: 250},
    context=8_192,
    width=4_096,
)


def guessed(method: Method = "lora", **changed: Any) -> dict[str, Guess]:
    return {one.key: one for one in guess(replace(SURVEY, **changed), method)}


def values(method: Method = "lora", **changed: Any) -> dict[str, str]:
    return {key.rpartition(".")[2]: one.value for key, one in guessed(method, **changed).items()}


def test_every_guess_has_a_reason() -> None:
    methods: tuple[Method, ...] = ("lora", "qlora", "p-tuning", "full")
    for method in methods:
        assert all(one.why for one in guess(SURVEY, method))


def test_the_same_data_gives_the_same_guesses() -> None:
    assert guess(SURVEY, "lora") == guess(SURVEY, "lora")


@pytest.mark.parametrize(
    ("records", "epochs", "batch", "rank", "steps"),
    [
        (8, "10", "4", "8", "20"),
        (99, "10", "4", "8", "250"),
        (100, "5", "8", "8", "65"),
        (1_000, "3", "8", "16", "375"),
        (20_000, "2", "16", "32", "2,500"),
        (100_000, "1", "32", "32", "3,125"),
    ],
)
def test_few_records_are_seen_more_often_in_smaller_steps(
    records: int, epochs: str, batch: str, rank: str, steps: str
) -> None:
    found = guessed(rows={**SURVEY.rows, "train.jsonl": records})
    assert found["training_args.num_train_epochs"].value == epochs
    assert found["training_args.per_device_train_batch_size"].value == batch
    assert found["peft_config.r"].value == rank
    assert found["peft_config.lora_alpha"].value == str(2 * int(rank))
    assert f"about {steps} steps" in found["training_args.num_train_epochs"].why


@pytest.mark.parametrize(
    ("lengths", "answers", "context", "prompt", "answer", "said"),
    [
        (
            (200, 400, 500, 800, 1_000),
            (9, 9, 9, 200, 250),
            8_192,
            "1024",
            "256",
            "every conversation: the longest",
        ),
        ((10, 12, 13, 14, 15), (5, 6, 7, 8, 9), 0, "32", "32", "every conversation: the longest has 15 tokens"),
        # One that is far longer than all others does not decide.
        ((200, 400, 500, 800, 50_000), (9, 9, 9, 200, 40_000), 0, "800", "224", "at least 99 % of the conv"),
        # The model cannot see more than its context.
        ((200, 400, 500, 800, 1_000), (9, 9, 9, 200, 250), 512, "256", "256", "at least 95 % of the conv"),
        ((900, 900, 900, 900, 900), (9, 9, 9, 800, 800), 512, "256", "256", "less than half of the conv"),
    ],
)
def test_the_limits_leave_room_for_the_conversations_and_the_answers(
    lengths: tuple[int, ...], answers: tuple[int, ...], context: int, prompt: str, answer: str, said: str
) -> None:
    known = [dict(zip((50, 90, 95, 99, 100), tokens, strict=True)) for tokens in (lengths, answers)]
    found = guessed(lengths=known[0], answers=known[1], context=context)
    assert (found["max_input_length"].value, found["max_output_length"].value) == (prompt, answer)
    assert said in found["max_input_length"].why


@pytest.mark.parametrize(
    ("method", "width", "rate"),
    [
        ("lora", 4_096, "5e-4"),
        ("lora", 0, "5e-4"),
        ("lora", 128, "5e-3"),
        ("qlora", 4_096, "2e-4"),
        ("p-tuning", 4_096, "1e-2"),
        ("p-tuning", 128, "3e-2"),
        ("full", 4_096, "5e-5"),
        ("full", 128, "1e-3"),
    ],
)
def test_the_learning_rate_suits_method_and_size(method: Method, width: int, rate: str) -> None:
    assert values(method, width=width)["learning_rate"] == rate


@pytest.mark.parametrize(("tokens", "told"), [(0, False), (1280, False), (7500, True)])
def test_large_images_are_told_with_the_key_that_shrinks_them(tokens: int, told: bool) -> None:
    found = guessed(pictured=10, largest_image=tokens).get("data_config.max_image_tokens")
    assert (found is not None) == told
    assert found is None or (found.value == "" and "up to 7,500 tokens" in found.why)


def test_a_method_writes_its_own_keys_only() -> None:
    assert values("lora")["peft_type"] == "LORA"
    assert values("qlora")["quantization"] == "nf4"
    assert values("p-tuning")["peft_type"] == "PREFIX_TUNING"
    full = values("full")
    assert full["peft_config"] == ""
    assert not {"peft_type", "quantization"} & set(full)
    assert "gradient_checkpointing" in full
    assert "gradient_checkpointing" not in values("p-tuning")


def test_without_a_validation_file_nothing_is_evaluated_while_training() -> None:
    found = guessed(val=None, test=None)
    assert not {key for key in found if "eval" in key or "best" in key}
    assert found["data_config.val_file"].value == ""


@pytest.mark.parametrize(
    ("train", "records", "said"),
    [
        (("train.jsonl",), 49, "too few records to hold some back"),
        (
            ("a.jsonl",),
            5_000,
            "mkdir split; head -n 4750 a.jsonl > split/train.jsonl; tail -n 250 a.jsonl > split/dev.jsonl",
        ),
        (("a b.jsonl",), 5_000, "head -n 4750 'a b.jsonl' > split/train.jsonl; "),
        (("train.json",), 5_000, "move about 250 records into a dev file"),
        (("train.jsonl", "b.jsonl"), 5_000, "move about 250 records into a dev file"),
    ],
)
def test_how_to_hold_records_back_is_told(train: tuple[str, ...], records: int, said: str) -> None:
    rows = {name: records // len(train) for name in train}
    assert said in guessed(train=train, val=None, test=None, rows=rows)["data_config.val_file"].why


def test_documents_are_cut_not_answered() -> None:
    found = guessed(format="text")
    assert "predict_with_generate" not in {key.rpartition(".")[2] for key in found}
    assert "tokens of one piece of a document" in found["max_input_length"].why


def test_several_training_files_become_a_list() -> None:
    rows = {"a.jsonl": 10, "b c.jsonl": 10, "dev.jsonl": 1, "test.jsonl": 1}
    found = values(train=("a.jsonl", "b c.jsonl"), rows=rows)
    assert found["train_file"] == '[{file: a.jsonl}, {file: "b c.jsonl"}]'


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("train.jsonl", "train.jsonl"),
        ("owner/corpus", "owner/corpus"),
        ("a b.jsonl", '"a b.jsonl"'),
        ("数据.jsonl", '"数据.jsonl"'),
        ("1e3", '"1e3"'),
        ("null", '"null"'),
        ("a: b", '"a: b"'),
        ('"', '"\\""'),
        ("#1.jsonl", '"#1.jsonl"'),
    ],
)
def test_a_name_is_quoted_where_yaml_needs_it(text: str, written: str) -> None:
    assert quoted(text) == written
