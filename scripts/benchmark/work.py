"""One folder that holds all the tools read: model, adapter, conversations as rows and as messages, our YAML."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from finetune.chat.messages import Conversation
from finetune.config.load import load_config
from finetune.data.dataset import load_conversations
from finetune.data.examples import Examples
from finetune.data.plan import Plan
from finetune.data.reading.intake import Intake
from finetune.model.tiny import train_tokenizer
from finetune.train.prepare import prepare
from scripts.benchmark.corpus import LONG, SHORT, Lengths, write_corpus
from scripts.benchmark.model import VIRTUAL_TOKENS, skeleton, write_adapter, write_model
from scripts.benchmark.shapes import Shape

LEARNING_RATE = 1e-4
_TOKENIZER_WORDS = 32_000
_MOST_EXACT = 1_000_000_000
"""Parameters of a model that is also written in float32, for the check."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What works are made from: one for each of `methods`, on the same model and data (None: made up)."""

    shape: Shape
    methods: tuple[str, ...]
    device: str
    steps: int
    batch: int
    max_length: int
    data: Path | None


@dataclass(frozen=True, slots=True)
class Work:
    """What all tools do. `lengths`: supervised tokens and tokens of every conversation trained, in order."""

    wanted: Wanted
    shared: Path
    method: str
    adapter: Path | None
    lengths: tuple[tuple[int, int], ...]

    @property
    def folder(self) -> Path:
        """Of this method alone."""
        return self.shared / self.method

    @property
    def model(self) -> Path:
        return self.shared / "model"

    @property
    def exact_model(self) -> Path:
        """The same weights in float32; not there where they would be too large."""
        return self.shared / "model-fp32"

    @property
    def rows(self) -> Path:
        """`input_ids` and `labels` of a conversation per line."""
        return self.shared / "rows.jsonl"

    @property
    def messages(self) -> Path:
        """The same conversations as text."""
        return self.shared / "messages" / "train.jsonl"

    @property
    def yaml(self) -> Path:
        return self.folder / "train.yaml"


def make_works(wanted: Wanted, shared: Path) -> list[Work]:
    """Write everything into `shared`. Our plan chooses the conversations of every step, and their order."""
    data = wanted.data or write_corpus(shared / "made-up.jsonl", _enough(wanted), _lengths(wanted))
    tokenizer = train_tokenizer(_texts(data), min(_TOKENIZER_WORDS, wanted.shape.vocab))
    model = write_model(shared / "model", tokenizer, wanted.shape, torch.bfloat16)
    if wanted.shape.layer_parameters < _MOST_EXACT:
        write_model(shared / "model-fp32", tokenizer, wanted.shape, torch.float32)
    works = []
    for method in wanted.methods:
        folder = shared / method
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        adapter = write_adapter(folder / "adapter", model, skeleton(tokenizer, wanted.shape), method)
        works.append(work_on(wanted, shared, method, adapter, data))
    return works


def work_on(wanted: Wanted, shared: Path, method: str, adapter: Path | None, data: Path) -> Work:
    """The work of one method on the model that lies in `shared`."""
    folder = shared / method
    _write_yaml(folder, data, wanted, method, adapter)
    return Work(wanted, shared, method, adapter, _write_rows(folder, shared, data))


def _enough(wanted: Wanted) -> int:
    return max(1_000, wanted.steps * wanted.batch) if wanted.shape.layers > 2 else wanted.steps * wanted.batch


def _lengths(wanted: Wanted) -> Lengths:
    return LONG if wanted.device == "cuda" else SHORT


def _texts(data: Path) -> Iterator[str]:
    for _, conversation in Intake(data).conversations():
        if isinstance(conversation, Conversation):
            yield from (message.content for message in conversation.messages)


def _write_yaml(folder: Path, data: Path, wanted: Wanted, method: str, adapter: Path | None) -> None:
    content: dict[str, Any] = {
        "data_config": {"train_file": str(data.resolve()), "on_bad_record": "skip"},
        "max_input_length": wanted.max_length // 2,
        "max_output_length": wanted.max_length - wanted.max_length // 2,
        "model_config": {"adapter": None if adapter is None else str(adapter)},
        "training_args": {
            "output_dir": str(folder / "output"),
            "max_steps": wanted.steps,
            "per_device_train_batch_size": wanted.batch,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": wanted.device == "cpu",
        },
    }
    if method == "p-tuning":
        content["peft_config"] = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": VIRTUAL_TOKENS}
    if method == "full":
        content["training_args"]["bf16"] = True
    YAML().dump(content, folder / "train.yaml")


def _write_rows(folder: Path, shared: Path, data: Path) -> tuple[tuple[int, int], ...]:
    """The conversations of all steps, in order; encoding them fills the cache that our runs find."""
    config = load_config(folder / "train.yaml", [], data_dir=shared)
    prepared = prepare(config, shared, str(shared / "model"))
    examples = prepared.examples
    order = list(_order(prepared.plan(), prepared.total_steps, examples))
    _write_lines(shared / "rows.jsonl", (_row(examples, number) for number in order))
    (shared / "messages").mkdir(exist_ok=True)
    train_file = config.data_config.train_file
    said = {s.origin: s.conversation for s in load_conversations(config.data_config, str(train_file), shared)}
    messages = (said[examples.origin_of(number)].messages for number in order)
    texts = ([{"role": m.role, "content": m.content} for m in turns] for turns in messages)
    _write_lines(shared / "messages" / "train.jsonl", ({"messages": text} for text in texts))
    return tuple((int(examples.supervised[n]), int(examples.lengths[n])) for n in order)


def _order(plan: Plan, steps: int, examples: Examples) -> Iterator[int]:
    for step in plan.steps(0, steps):
        for conversation in step.conversations:
            yield from examples.examples_of(conversation)


def _row(examples: Examples, number: int) -> dict[str, list[int]]:
    example = examples[number]
    pairs = zip(example.input_ids.tolist(), example.loss_mask.tolist(), strict=True)
    ids = example.input_ids.tolist()
    return {"input_ids": ids, "labels": [token if learn else -100 for token, learn in pairs]}


def _write_lines(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
