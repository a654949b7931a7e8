"""`finetune generate` goes on in an OUTPUT only where the same was asked of the same, or tells what differs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GlmForCausalLM

from finetune.config.schema import DataConfig
from finetune.data.dataset import load_conversations
from finetune.errors import FolderInUseError
from finetune.infer.command import generate_answers
from finetune.infer.engine import Sampling
from tests.seeing import make_seeing

WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": {}}}
QUESTIONS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "One and one?"}]},
    {"messages": [{"role": "user", "content": "Where is the river?"}], "tools": [WEATHER]},
    {"messages": [{"role": "user", "content": "Hi"}]},
]


@pytest.fixture
def adapter(taught: Path, tmp_path: Path) -> Path:
    """A LoRA in a folder of its own, on a base in another."""
    base = tmp_path / "base"
    shutil.copytree(taught, base)
    torch.manual_seed(1)
    model = get_peft_model(
        GlmForCausalLM.from_pretrained(base), LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])
    )
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def generate(adapter: Path, **changes: Any) -> int:
    settings: dict[str, Any] = {
        "sampling": Sampling(max_new_tokens=4),
        "batch_size": 2,
        "quantization": None,
        "trust_remote_code": False,
    }
    beside = adapter.parent
    return generate_answers(
        str(adapter), str(beside / "in.jsonl"), beside / "out.jsonl", **{**settings, **changes}
    )


def other_weights(folder: Path) -> None:
    """One matrix of one file, at the same path and of the same size."""
    path = folder.parent / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"] += 1
    save_file(tensors, path, metadata={"format": "pt"})


def other_adapter(folder: Path) -> None:
    """One number."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] += 1
    save_file(tensors, path, metadata={"format": "pt"})


def other_template(folder: Path) -> None:
    path = folder.parent / "base" / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8").replace("[gMASK]<sop>", "[gMASK]<sop> "), encoding="utf-8")


def other_tools(folder: Path) -> None:
    renamed = {"type": "function", "function": {**WEATHER["function"], "name": "climate"}}
    write(folder.parent / "in.jsonl", [QUESTIONS[0], {**QUESTIONS[1], "tools": [renamed]}, QUESTIONS[2]])


def no_tools(folder: Path) -> None:
    write(folder.parent / "in.jsonl", [QUESTIONS[0], {"messages": QUESTIONS[1]["messages"]}, QUESTIONS[2]])


def other_question(folder: Path) -> None:
    write(folder.parent / "in.jsonl", [QUESTIONS[0], QUESTIONS[2]])


def older_line(folder: Path) -> None:
    path = folder.parent / "out.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write(path, [{k: v for k, v in row.items() if k not in ("asked", "answered_by")} for row in rows])


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (other_weights, r"out.jsonl:1: was written with different weights; give another OUTPUT"),
    (other_adapter, r"out.jsonl:1: was written with different adapter;"),
    (other_template, r"out.jsonl:1: was written with different template;"),
    (other_tools, r"out.jsonl:2: answers .*in.jsonl:2 with other tools;"),
    (no_tools, r"out.jsonl:2: answers .*in.jsonl:2 with other tools;"),
    (other_question, r"out.jsonl:2: answers another conversation than .*in.jsonl:2;"),
    (older_line, r"out.jsonl:1: was written by an earlier version"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_what_was_asked_or_who_answers_is_something_else(
    change: Callable[[Path], None], message: str, adapter: Path
) -> None:
    output = adapter.parent / "out.jsonl"
    write(adapter.parent / "in.jsonl", QUESTIONS[:2])
    assert generate(adapter) == 2
    write(adapter.parent / "in.jsonl", QUESTIONS)
    change(adapter)
    kept = output.read_bytes()
    with pytest.raises(FolderInUseError, match=message):
        generate(adapter)
    assert output.read_bytes() == kept


def copied_weights(folder: Path) -> None:
    """The same bytes in another file."""
    path = folder.parent / "base" / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def card_beside(folder: Path) -> None:
    (folder.parent / "base" / "README.md").write_text("About this model.")


@pytest.mark.parametrize("change", [copied_weights, card_beside])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_what_cannot_change_an_answer_is_no_reason_to_stop(
    batch_size: int, change: Callable[[Path], None], adapter: Path
) -> None:
    write(adapter.parent / "in.jsonl", QUESTIONS[:2])
    assert generate(adapter) == 2
    write(adapter.parent / "in.jsonl", QUESTIONS)
    change(adapter)
    assert generate(adapter, batch_size=batch_size) == 1
    assert generate(adapter) == 0


def test_a_line_tells_what_was_asked_and_who_answered_and_can_be_read_as_data(adapter: Path) -> None:
    write(adapter.parent / "in.jsonl", QUESTIONS)
    generate(adapter)
    rows = [json.loads(line) for line in (adapter.parent / "out.jsonl").read_text("utf-8").splitlines()]
    assert [list(row["answered_by"]) for row in rows] == [["weights", "adapter", "template"]] * 3
    assert len({row["asked"] for row in rows}) == 3
    again = load_conversations(DataConfig(train_file="out.jsonl"), "out.jsonl", adapter.parent)
    assert [len(sample.conversation.messages) for sample in again] == [2, 2, 2]


@pytest.mark.parametrize(
    ("colour", "more", "message"),
    [
        ("red", 1, None),
        ("blue", 0, r"out.jsonl:1: answers .*in.jsonl:1 with other content in its pictures"),
    ],
)
def test_pictures_with_other_content_at_the_same_path_are_another_question(
    colour: str, more: int, message: str | None, tmp_path: Path
) -> None:
    model = make_seeing(tmp_path / "model", "qwen3_vl")
    content = [{"type": "text", "text": "What?"}, {"type": "image", "image": "a.png"}]
    row = {"messages": [{"role": "user", "content": content}]}
    write(tmp_path / "in.jsonl", [row])
    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    assert generate(model) == 1
    write(tmp_path / "in.jsonl", [row, row])
    Image.new("RGB", (56, 56), colour).save(tmp_path / "a.png")
    if message is None:
        assert generate(model) == more
    else:
        with pytest.raises(FolderInUseError, match=message):
            generate(model)


def test_an_image_processor_that_cuts_pictures_otherwise_is_another_model(tmp_path: Path) -> None:
    model = make_seeing(tmp_path / "model", "qwen3_vl")
    write(tmp_path / "in.jsonl", QUESTIONS[::2])
    assert generate(model) == 2
    path = model / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    with pytest.raises(FolderInUseError, match=r"out.jsonl:1: was written with different image_processor"):
        generate(model)
