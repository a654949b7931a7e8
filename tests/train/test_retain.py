"""`evaluation.retain_file`: the loss on a text that is not trained on, of the base and of what became of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from finetune.chat.load import load_template
from finetune.config.schema import DataConfig
from finetune.data.dataset import load_examples
from finetune.train.run import train
from tests.train.conftest import LORA, PREFIX, Configure

METHODS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": LORA,
    "lora that does not start as a no-op": {**LORA, "init_lora_weights": False},
    "lora with a head of its own": {**LORA, "modules_to_save": ["lm_head"]},
    "prefix": PREFIX,
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
}
RETAIN = ["evaluation.retain_file=retain.txt"]


@pytest.fixture
def retain(data: Path) -> Path:
    (data / "retain.txt").write_text("rain bird stone river mill green blue red rain bird stone")
    return data


def loss_of(model: Any, small: Path, data: Path) -> float:
    """The mean over the text of retain.txt, by torch alone."""
    config = DataConfig(train_file="retain.txt")
    (example,) = load_examples(config, "retain.txt", data, load_template(str(small)), max_length=1024)
    ids = torch.tensor(example.input_ids.tolist())[None]
    start = int(example.loss_mask.argmax())  # behind [gMASK]<sop>
    assert start == 2 and example.loss_mask[start:].all()
    return float(cross_entropy(model(input_ids=ids).logits[0, start - 1 : -1], ids[0, start:]))


def run_json(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "run.json").read_text())
    return content


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_before_is_that_of_the_base(
    method: str, small: Path, retain: Path, configure: Configure
) -> None:
    base = AutoModelForCausalLM.from_pretrained(small).eval()
    expected = loss_of(base, small, retain)
    config = configure(METHODS[method], eval_strategy="steps", eval_steps=6)
    output = train(retain, str(small), config, overrides=RETAIN)
    told = run_json(output)["retain"]
    assert told["loss_before"] == pytest.approx(expected, rel=1e-6)
    assert told["loss_after"] != told["loss_before"]
    assert told["file"] == "retain.txt"
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    assert [line["eval_retain_loss"] for line in lines if "eval_loss" in line] == [told["loss_after"]]
    assert "retain loss" in (output / "report.html").read_text()
    if method == "full":
        tuned = AutoModelForCausalLM.from_pretrained(output / "checkpoint-6").eval()
        assert told["loss_after"] == pytest.approx(loss_of(tuned, small, retain), rel=1e-5)


def test_looking_at_the_base_changes_nothing_of_the_training(
    small: Path, retain: Path, configure: Configure
) -> None:
    from safetensors.torch import load_file

    peft = {**LORA, "init_lora_weights": False, "modules_to_save": ["lm_head"]}
    plain, looked = (
        load_file(
            train(retain, str(small), configure(peft, name), overrides=overrides)
            / "checkpoint-6"
            / "training_state.safetensors"
        )
        for name, overrides in (("plain", []), ("looked", RETAIN))
    )
    assert all(torch.equal(plain[name], looked[name]) for name in plain)


def test_a_resumed_run_keeps_the_loss_before(small: Path, retain: Path, configure: Configure) -> None:
    config = configure(None)
    before = run_json(train(retain, str(small), config, overrides=RETAIN))["retain"]
    resumed = run_json(train(retain, str(small), config, resume="3", overrides=RETAIN))["retain"]
    assert resumed == before


def test_another_text_has_no_loss_before(
    small: Path, retain: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(None)
    train(retain, str(small), config, overrides=RETAIN)
    (retain / "retain.txt").write_text("green mill")
    told = run_json(train(retain, str(small), config, resume="3", overrides=RETAIN))["retain"]
    assert told["loss_before"] is None and told["loss_after"] > 0
    assert "its loss before is not known" in capsys.readouterr().err


def test_conversations_count_as_they_would_be_learnt(small: Path, data: Path, configure: Configure) -> None:
    # dev.jsonl is the test file, too: one figure, whatever the run itself learns of its turns
    overrides = ["evaluation.retain_file=dev.jsonl", "data_config.train_on=last"]
    told = run_json(train(data, str(small), configure(LORA), overrides=overrides))
    of_all_turns = run_json(train(data, str(small), configure(LORA), "no", overrides=overrides[:1]))
    assert told["retain"]["tokens"] == of_all_turns["result"]["evaluation"]["loss_tokens"]
    assert of_all_turns["retain"]["loss_after"] == of_all_turns["result"]["evaluation"]["loss"]
