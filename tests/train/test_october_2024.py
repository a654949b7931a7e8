"""The YAML files of GLM-4's finetune_demo, as they were, train on its data, as it was."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.folder import read_run
from finetune.model.tiny import make_tiny
from finetune.train.run import train

YAMLS = Path(__file__).parents[1] / "config" / "october_2024"
SHORTER = ["training_args.max_steps=2", "training_args.generation_config.max_new_tokens=4"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PLAIN = [
    {"role": "user", "content": "say red blue"},
    {"role": "assistant", "content": "blue red"},
    {"role": "user", "content": "again"},
    {"role": "assistant", "content": "red blue"},
]
SYSTEM = [{"role": "system", "content": "你是一只鸟。"}, *PLAIN[:2]]
CALL = [
    {"role": "system", "content": "", "tools": [WEATHER]},
    {"role": "user", "content": "雨？"},
    {"role": "assistant", "content": '{"name": "get_weather", "arguments": {"city": "河"}}'},
    {"role": "observation", "content": '{"sky": "雨"}'},
    {"role": "assistant", "content": "下雨。"},
]
WITH_METADATA = [
    CALL[0],
    CALL[1],
    {"role": "assistant", "metadata": "get_weather", "content": '{"city": "山"}'},
    CALL[3],
    CALL[4],
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GLM-4 with enough words for a prompt with tools to keep within 512 tokens."""
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48}
    return make_tiny(tmp_path_factory.mktemp("october") / "model", vocab_size=800, **shape)


@pytest.fixture
def glm4_data(tmp_path: Path) -> Path:
    """DATA_DIR as the old documentation has it: plain, system, and both spellings of a call in one file."""
    folder = tmp_path / "data"
    folder.mkdir()
    records = [{"messages": messages} for messages in (PLAIN, SYSTEM, CALL, WITH_METADATA)]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    for name in ("train.jsonl", "dev.jsonl"):
        (folder / name).write_text(lines, encoding="utf-8")
    return folder


def run(name: str, model: Path, data: Path, output: Path) -> dict[str, Any]:
    return read_run(
        train(data, str(model), YAMLS / name, overrides=[*SHORTER, f"training_args.output_dir={output}"])
    )


@pytest.mark.parametrize(
    ("name", "tuning", "per_step"),
    [("lora.yaml", "adapter", 1), ("ptuning_v2.yaml", "prefix", 4), ("sft.yaml", "full", 1)],
)
def test_an_old_yaml_trains_evaluates_and_tells_what_it_took(
    name: str,
    tuning: str,
    per_step: int,
    model: Path,
    glm4_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = run(name, model, glm4_data, tmp_path / "output")
    assert (found["status"], found["base"]["tuning"]) == ("done", tuning)
    assert found["plan"]["conversations_per_step"] == per_step
    ledger = found["data"][0]["ledger"]
    assert ledger["rows"] == ledger["trained"] == 4
    assert ledger["turns_left_out"] == 3  # combine: true learns the last turn: 1 + 0 + 1 + 1 are left out
    assert {"rouge-1", "rouge-2", "rouge-l", "bleu-4"} <= found["result"]["evaluation"]["scores"].keys()
    predictions = (tmp_path / "output" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(predictions) == 7  # one for each assistant turn
    said = capsys.readouterr().err
    assert "combine: true means data_config.train_on: last" in said
    assert "freezeV: true means model_config.freeze: [vision]" in said
    assert ("there is nothing to share here" in said) == (name == "sft.yaml")


def test_the_fused_name_and_the_shape_of_another_model_are_set_right(
    model: Path, glm4_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("lora.yaml", model, glm4_data, tmp_path / "lora")
    assert "query_key_value is q_proj, k_proj, v_proj in GlmForCausalLM" in capsys.readouterr().err
    run("ptuning_v2.yaml", model, glm4_data, tmp_path / "prefix")
    assert "token_dim: 256 does not fit the model; 16 does, and is used" in capsys.readouterr().err
    saved = json.loads((tmp_path / "prefix" / "checkpoint-2" / "adapter_config.json").read_text())
    assert (saved["num_virtual_tokens"], saved["num_attention_heads"], saved["token_dim"]) == (512, 2, 16)
