"""What configs/ ships: every file loads, says how to run it, and is described by a page that is up to date."""

import json
from pathlib import Path

import pytest

from finetune.config.arguments import TrainingArgs
from finetune.config.keys import help_texts
from finetune.config.load import find_shipped, load_config
from finetune.config.reference import reference
from finetune.config.schema import Config, DataConfig, EvaluationConfig, FileShare, ModelConfig, RunConfig
from finetune.config.tuning import TUNINGS

CONFIGS = Path(__file__).parents[2] / "configs"
YAMLS = sorted(CONFIGS.rglob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_a_shipped_yaml_loads_without_a_word(path: Path) -> None:
    assert load_config(path).notices == ()


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_a_shipped_yaml_opens_with_the_command_that_runs_it(path: Path) -> None:
    opening = path.read_text(encoding="utf-8").splitlines()[:3]
    assert any("finetune train" in line and f"configs/{name(path)}" in line for line in opening)


def test_upstreams_names_are_there() -> None:
    for file in ("lora.yaml", "ptuning_v2.yaml", "sft.yaml", "qlora.yaml", "ds_zero_2.json", "ds_zero_3.json"):
        assert find_shipped(file) == CONFIGS / file
    assert find_shipped("nothing.yaml") is None


@pytest.mark.parametrize("stage", [2, 3])
def test_a_deepspeed_file_leaves_to_the_yaml_what_the_yaml_says(stage: int) -> None:
    content = json.loads((CONFIGS / f"ds_zero_{stage}.json").read_text(encoding="utf-8"))
    shared = ("gradient_accumulation_steps", "gradient_clipping", "train_micro_batch_size_per_gpu")
    assert {content[key] for key in shared} == {"auto"}
    assert content["zero_optimization"]["stage"] == stage
    assert content["bf16"]["enabled"] == "auto"
    assert not content.keys() & {"optimizer", "scheduler"}


def test_the_reference_page_is_up_to_date() -> None:
    written = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m finetune.config.reference > configs/README.md"


def test_every_field_has_a_help_text() -> None:
    sections = [Config, DataConfig, EvaluationConfig, FileShare, ModelConfig, RunConfig, *TUNINGS.values()]
    sections += [field.annotation for field in TrainingArgs.model_fields.values()]
    for section in sections:
        texts = help_texts(section)
        assert [field for field in section.model_fields if not texts.get(field)] == [], section.__name__
