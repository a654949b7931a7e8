"""Conversations with pictures on their way to examples: where they stand, how long they are, what is wrong."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.chat.load import load_template
from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig
from finetune.data.dataset import Examples, load_conversations, load_examples
from finetune.data.encode import Example, encode, prompt_of
from finetune.data.reading.formats import parse_conversation
from finetune.data.reading.record import Record
from finetune.errors import DataError, FinetuneError
from tests.seeing import draw, make_seeing

SIZES = {"a": (56, 28), "b": (70, 90), "c": (120, 30)}
TOKENS = {"a": 2, "b": 6, "c": 4}
"""What pictures of these sizes take: a token for 28 x 28 pixels, after rounding."""


@pytest.fixture(scope="module", params=["glm4v", "qwen2_5_vl"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return load_template(make_seeing(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, size) in enumerate(SIZES.items()):
        draw(tmp_path / f"{name}.png", *size, seed=number)
    return tmp_path


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def url(address: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}}


def data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def written(folder: Path, *records: dict[str, Any], name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def examples(
    folder: Path, template: ChatTemplate, *records: dict[str, Any], max_length: int = 500, **config: Any
) -> Examples:
    written(folder, *records)
    settings = DataConfig(train_file="train.jsonl", **config)
    return load_examples(settings, "train.jsonl", folder, template, max_length=max_length)


def shown(example: Example, template: ChatTemplate) -> str:
    """The text with `<name>` for the tokens of each picture."""
    assert template.sight is not None
    ids, result, pictures = example.input_ids.tolist(), "", list(example.pictures)
    position = 0
    for picture in pictures:
        start = ids.index(template.sight.token, position)
        count = template.sight.tokens(picture.width, picture.height)
        assert ids[start : start + count] == [template.sight.token] * count
        result += template.visible(ids[position:start]) + f"<{Path(picture.path).stem}>"
        position = start + count
    assert template.sight.token not in ids[position:]
    return result + template.visible(ids[position:])


WAYS: dict[str, dict[str, Any]] = {
    "GLM-4's image": {"messages": [turn("user", "What?", image="a.png"), turn("assistant", "x")]},
    "GLM-4's image at its mark": {
        "messages": [turn("user", "What <image>?", image="a.png"), turn("assistant", "x")]
    },
    "OpenAI's parts": {
        "messages": [turn("user", [text("What "), url("a.png"), text("?")]), turn("assistant", "x")]
    },
    "Hugging Face's parts": {
        "messages": [turn("user", [{"type": "image"}, text("What?")]), turn("assistant", "x")],
        "images": ["a.png"],
    },
    "placeholders": {"messages": [turn("user", "What <image>?"), turn("assistant", "x")], "images": ["a.png"]},
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "What <image>?"}, {"from": "gpt", "value": "x"}],
        "images": ["a.png"],
    },
    "LLaVA": {
        "conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "x"}],
        "image": "a.png",
    },
    "Alpaca": {"instruction": "What <image>?", "output": "x", "images": ["a.png"]},
    "prompt and completion": {"prompt": "What <image>?", "completion": "x", "images": ["a.png"]},
    "a path object": {
        "messages": [turn("user", "What <image>?"), turn("assistant", "x")],
        "images": [{"path": "a.png"}],
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_stands_where_the_record_puts_it(way: str, folder: Path, template: ChatTemplate) -> None:
    (example,) = examples(folder, template, WAYS[way])
    expected = "What <" if "What <image>" in str(WAYS[way]) or "OpenAI" in way else ">What"
    assert expected in shown(example, template).replace("<|end_of_image|>", "").replace(
        "<|vision_end|>", ""
    ).replace("<|begin_of_image|>", "").replace("<|vision_start|>", "")
    assert [Path(picture.path) for picture in example.pictures] == [folder / "a.png"]
    text_only = {
        "messages": [turn("user", "What ?" if "What <" in expected else "What?"), turn("assistant", "x")]
    }
    (plain,) = examples(folder, template, text_only)
    assert len(example.input_ids) == len(plain.input_ids) + TOKENS["a"] + 2  # and what stands around a picture


def test_several_pictures_on_any_turn_and_rows_without_any(folder: Path, template: ChatTemplate) -> None:
    rows = [
        {
            "messages": [
                turn("user", "<image> and <image>"),
                turn("assistant", "one"),
                turn("user", "again<image>"),
                turn("assistant", "two"),
            ],
            "images": ["a.png", "b.png", "a.png"],
        },
        {"messages": [turn("user", "Hello"), turn("assistant", "you")]},
        {"messages": [turn("user", [url("c.png")]), turn("assistant", "three")]},
    ]
    found = examples(folder, template, *rows)
    assert [[Path(p.path).stem for p in one.pictures] for one in found] == [["a", "b", "a"], [], ["c"]]
    assert len(found.album) == 3
    assert found.lengths.tolist() == [len(one.input_ids) for one in found]
    for one in found:
        assert template.sight is not None
        assert not one.loss_mask[one.input_ids == template.sight.token].any()
    assert "<a>" in shown(found[0], template) and "<b>" in shown(found[0], template)
    assert [int(one.loss_mask.sum()) for one in found] == [int(n) for n in found.supervised]


def test_a_picture_given_as_bytes_is_the_picture_of_the_file(folder: Path, template: ChatTemplate) -> None:
    def row(address: str) -> dict[str, Any]:
        return {"messages": [turn("user", [url(address), text("?")]), turn("assistant", "x")]}

    named, given = examples(folder, template, row("a.png"), row(data_url(folder / "a.png")))
    assert np.array_equal(named.input_ids, given.input_ids)
    assert named.pictures[0].sha256 == given.pictures[0].sha256
    assert Path(given.pictures[0].path).read_bytes() == (folder / "a.png").read_bytes()


def test_a_typed_image_token_stays_text(folder: Path, template: ChatTemplate) -> None:
    assert template.sight is not None
    token = str(template.tokenizer.convert_ids_to_tokens(template.sight.token))
    row = {"messages": [turn("user", f"{token} <image>", image="a.png"), turn("assistant", f"a {token}")]}
    (example,) = examples(folder, template, row)
    assert int((example.input_ids == template.sight.token).sum()) == TOKENS["a"]
    assert shown(example, template).count(f"\\{token}") == 2


def test_a_prompt_is_what_stands_before_the_answer(folder: Path, template: ChatTemplate) -> None:
    row = {
        "messages": [turn("user", "<image>What?"), turn("assistant", "x")],
        "images": [str(folder / "b.png")],
    }
    conversation = parse_conversation(Record(row, str(folder / "train.jsonl"), 1), "messages")
    ((example,), _) = encode(conversation, template, max_length=500)
    prompt = prompt_of(template, conversation.before(1))
    first = int(np.flatnonzero(example.loss_mask)[0])
    assert prompt.ids == example.input_ids[:first].tolist()
    assert prompt.pictures == example.pictures and len(prompt) == first


def conversation_of(*names: str) -> dict[str, Any]:
    turns = [
        one
        for name in names
        for one in (turn("user", f"see {name}", image=f"{name}.png"), turn("assistant", name))
    ]
    return {"messages": turns}


def test_truncation_takes_whole_turns_with_their_pictures(folder: Path, template: ChatTemplate) -> None:
    (whole,) = examples(folder, template, conversation_of("a", "b", "c"))
    (last_two,) = examples(folder, template, conversation_of("b", "c"))
    for limit in range(len(last_two.input_ids), len(whole.input_ids)):
        (cut,) = examples(
            folder, template, conversation_of("a", "b", "c"), max_length=limit, overflow="truncate-left"
        )
        assert np.array_equal(cut.input_ids, last_two.input_ids)
        assert cut.pictures == last_two.pictures
    with pytest.raises(Exception, match="too long"):
        examples(folder, template, conversation_of("a", "b", "c"), max_length=len(whole.input_ids) - 1)


def test_the_image_tokens_count_in_the_limit(folder: Path, template: ChatTemplate) -> None:
    (whole,) = examples(folder, template, conversation_of("b"))
    assert len(examples(folder, template, conversation_of("b"), max_length=len(whole.input_ids))) == 1


@pytest.mark.parametrize("overflow", ["drop", "truncate-left", "error"])
def test_where_pictures_do_not_fit_a_smaller_size_of_them_is_advised(
    overflow: str, folder: Path, template: ChatTemplate
) -> None:
    with pytest.raises(FinetuneError, match=r"shrink pictures by data_config.max_image_tokens") as refusal:
        examples(folder, template, conversation_of("b"), max_length=5, overflow=overflow)
    assert ("or set data_config.overflow" in str(refusal.value)) == (overflow != "truncate-left")


def test_a_changed_picture_is_encoded_again_and_an_unchanged_one_is_not(
    folder: Path, template: ChatTemplate, capsys: pytest.CaptureFixture[str]
) -> None:
    (before,) = examples(folder, template, conversation_of("a"))
    (same,) = examples(folder, template, conversation_of("a"))
    assert "encoded before" in capsys.readouterr().err and same.pictures == before.pictures
    draw(folder / "a.png", *SIZES["b"], seed=5)
    (after,) = examples(folder, template, conversation_of("a"))
    assert "pictures have changed" in capsys.readouterr().err
    assert len(after.input_ids) == len(before.input_ids) + TOKENS["b"] - TOKENS["a"]
    os.utime(folder / "a.png", ns=(1, 1))  # the same bytes, touched
    (touched,) = examples(folder, template, conversation_of("a"))
    assert touched.pictures == after.pictures


def test_examples_of_other_pictures_are_other_data(folder: Path, template: ChatTemplate) -> None:
    one = examples(folder, template, conversation_of("a")).sha256
    draw(folder / "a.png", *SIZES["a"], seed=5)
    assert examples(folder, template, conversation_of("a")).sha256 != one


def test_a_picture_that_went_away_is_told_by_line(folder: Path, template: ChatTemplate) -> None:
    examples(folder, template, conversation_of("b"), conversation_of("a"))
    (folder / "a.png").unlink()
    with pytest.raises(DataError, match=r"train.jsonl:2:\d+: E31\d .*a.png"):
        examples(folder, template, conversation_of("b"), conversation_of("a"))
    with pytest.raises(DataError, match=r"train.jsonl:2:\d+: E31\d .*a.png"):
        load_conversations(DataConfig(train_file="train.jsonl"), "train.jsonl", folder)


def test_a_bad_picture_can_be_skipped_and_is_counted(folder: Path, template: ChatTemplate) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    found = examples(folder, template, conversation_of("b"), conversation_of("a"), on_bad_record="skip")
    assert len(found) == 1 and found.ledger.fates["malformed"] == 1
    assert [problem.line for problem in found.rejected] == [2]


def test_pictures_outside_the_roots_are_refused_unless_said(folder: Path, template: ChatTemplate) -> None:
    inside = folder / "data"
    inside.mkdir()
    row = {"messages": [turn("user", "?", image="../a.png"), turn("assistant", "x")]}
    with pytest.raises(DataError, match=r"image_roots"):
        examples(inside, template, row)
    assert len(examples(inside, template, row, image_roots=[".."])) == 1
    assert len(examples(inside, template, row, image_roots=[str(folder)])) == 1


def test_a_picture_that_is_too_slim_for_the_model_is_told(folder: Path, template: ChatTemplate) -> None:
    draw(folder / "a.png", 6000, 10)
    with pytest.raises(
        DataError, match=r"train.jsonl:1:\d+: E318 .*6000 x 10 pixels: one side is more than 200"
    ):
        examples(folder, template, conversation_of("a"))


def test_several_processes_encode_the_same(folder: Path, template: ChatTemplate) -> None:
    rows = [conversation_of(*names) for names in ("ab", "c", "ba", "cab")] * 40
    one, two = (examples(folder, template, *rows, num_proc=processes) for processes in (1, 2))
    assert np.array_equal(one.input_ids, two.input_ids)
    assert [example.pictures for example in one] == [example.pictures for example in two]


def test_a_process_that_encodes_hands_on_what_is_wrong_with_a_picture(
    folder: Path, template: ChatTemplate
) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"train.jsonl:2:\d+: E313 .*a.png") as told:
        examples(folder, template, conversation_of("b"), conversation_of("a"), num_proc=2)
    assert "1 of 2 records" in str(told.value)


def test_a_model_of_text_refuses_pictures_by_line(folder: Path, small: Path) -> None:
    with pytest.raises(DataError, match=r"train.jsonl:1:\d+: E301 .*images; the model sees none"):
        examples(folder, load_template(small), conversation_of("a"))
