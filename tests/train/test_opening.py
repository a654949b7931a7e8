"""A run's prefix starts as the tokens that `prefix_init` names, and its first step where the base model is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from finetune.chat.load import load_template
from finetune.config.load import load_config
from finetune.config.tuning import PrefixTuning
from finetune.data.dataset import load_examples
from finetune.data.opening import opening_tokens
from finetune.errors import ConfigError
from finetune.train.run import train
from tests.train.conftest import Configure

PLAIN: dict[str, Any] = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 6}
EVERY_ROW = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1, "max_steps": 1}


def first_loss(output: Path) -> float:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[0])["loss"])


@torch.no_grad()
def loss_behind(ids: list[int], small: Path, config: Path, data: Path) -> float:
    """Of all conversations, each behind the tokens `ids`, as plain transformers computes it."""
    model = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    settings = load_config(config, data_dir=data)
    examples = load_examples(
        settings.data_config, "train.jsonl", data, load_template(str(small)), max_length=1000
    )
    summed = count = 0.0
    for example in examples:
        text = torch.tensor([[*ids, *example.input_ids.tolist()]])
        learn = zip(example.input_ids.tolist(), example.loss_mask.tolist(), strict=True)
        labels = torch.tensor([[-100] * len(ids) + [i if learnt else -100 for i, learnt in learn]])
        targets = int((labels[:, 1:] != -100).sum())
        summed += float(model(input_ids=text, labels=labels).loss) * targets
        count += targets
    return summed / count


def opening(small: Path, data: Path, config: Path) -> list[int]:
    settings = load_config(config, data_dir=data)
    tuning, template = settings.peft_config, load_template(str(small))
    assert isinstance(tuning, PrefixTuning) and tuning.starts_as != "random"
    examples = load_examples(settings.data_config, "train.jsonl", data, template, max_length=1000)
    return opening_tokens(
        tuning.starts_as, tuning.prefix_init_text, tuning.num_virtual_tokens, examples, template
    )


@pytest.mark.parametrize(
    ("start", "shown"),
    [
        ({}, "[gMASK]<sop><|user|>\nsa"),
        ({"prefix_init": "text"}, "[gMASK]<sop><|user|>\nsa"),
        ({"prefix_init_text": "red mill"}, "[gMASK]<sop><|user|>re"),
        ({"prefix_init": "tokens"}, "[gMASK]<sop><|user|>"),
        ({"prefix_projection": True}, "[gMASK]<sop><|user|>\nsa"),
    ],
    ids=["by default", "data", "a text", "tokens", "projected"],
)
def test_the_first_loss_is_that_of_the_base_behind_these_tokens(
    start: dict[str, Any], shown: str, small: Path, data: Path, configure: Configure, capfd: Any
) -> None:
    config = configure(PLAIN | start, **EVERY_ROW)
    ids = opening(small, data, config)
    assert load_template(str(small)).tokenizer.decode(ids).startswith(shown)
    output = train(data, str(small), config)
    assert first_loss(output) == pytest.approx(loss_behind(ids, small, config, data), rel=1e-5)
    assert "the prefix starts as what the model keeps of" in capfd.readouterr().err


def test_random_is_as_it_was(small: Path, data: Path, configure: Configure, capfd: Any) -> None:
    output = train(data, str(small), configure(PLAIN | {"prefix_init": "random"}, **EVERY_ROW))
    zero = train(data, str(small), configure(PLAIN | {"init_weights": "zero"}, "zero", **EVERY_ROW))
    assert "the prefix starts" not in capfd.readouterr().err
    assert first_loss(output) != first_loss(zero)


def test_a_projection_that_is_too_narrow_starts_at_random_or_is_refused(
    small: Path, data: Path, configure: Configure, capfd: Any
) -> None:
    narrow = PLAIN | {"prefix_projection": True, "encoder_hidden_size": 2}
    train(data, str(small), configure(narrow, **EVERY_ROW))
    assert "the prefix starts at random: a projection 2 wide" in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"prefix_init: a projection 2 wide.*encoder_hidden_size: 6"):
        train(data, str(small), configure(narrow | {"prefix_init": "text"}, "asked", **EVERY_ROW))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_it_starts_on_a_quantized_base_too(kind: str, small: Path, data: Path, configure: Configure) -> None:
    config = configure(PLAIN, **EVERY_ROW)
    output = train(data, str(small), config, overrides=[f"model_config.quantization={kind}"])
    expected = loss_behind(opening(small, data, config), small, config, data)
    assert first_loss(output) == pytest.approx(expected, rel=2e-2)
