"""configs/schema.json tells an editor what load_config will say: of names, types and ranges."""

from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from finetune.config.json_schema import as_text, json_schema
from finetune.config.keys import Key, every_key
from finetune.config.load import load_config
from finetune.errors import ConfigError
from tests.config.conftest import DATA, schema_mistakes

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
SCHEMA = json_schema()
YAMLS = [*sorted(CONFIGS.rglob("*.yaml")), *sorted(HERE.rglob("*/*.yaml"))]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_the_schema_is_up_to_date() -> None:
    written = (CONFIGS / "schema.json").read_text(encoding="utf-8")
    assert written == as_text(), "run: python -m finetune.config.json_schema > configs/schema.json"


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_every_file_that_loads_is_valid(path: Path) -> None:
    load_config(path)
    assert schema_mistakes(path) == []


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=name)
def test_a_shipped_yaml_opens_with_the_schema_that_describes_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    marker, _, schema = first.partition("$schema=")
    assert marker == "# yaml-language-server: "
    assert (path.parent / schema).resolve() == CONFIGS / "schema.json"


@pytest.mark.parametrize("key", every_key(), ids=lambda key: key.path)
def test_every_key_is_described_where_it_stands(key: Key, tmp_path: Path) -> None:
    shape = SCHEMA
    for part in key.level.split(".") if key.level else ():
        of_lora = shape.get("allOf", [{}])[0].get("then", shape)
        shape = of_lora["properties"][part]
        shape = shape["oneOf"][1]["items"] if part == "train_file" else shape
    if key.kinds and key.name != "peft_type":
        (shape,) = [
            way["then"]
            for way in shape["allOf"]
            if way["if"]["properties"]["peft_type"]["const"] == key.kinds[0]
        ]
    assert shape["properties"][key.name]["description"] == key.text


@pytest.mark.parametrize(
    "text",
    [
        "lora_rank: 8",
        "training_args: {lerning_rate: 1}",
        "training_args: {learning_rate: '5e-4'}",
        "training_args: {learning_rate: 0}",
        "training_args: {max_steps: many}",
        "training_args: {adam_beta1: 1}",
        "training_args: {bf16: yes}",
        "training_args: {fp16: true}",
        "training_args: {optim: adamw}",
        "training_args: {push_to_hub: true}",
        "training_args: {report_to: [tensorbord]}",
        "training_args: {save_safetensors: false}",
        "training_args: {warmup_ratio: 2}",
        "training_args: {generation_config: {min_length: 3}}",
        "training_args: {generation_config: {top_p: 1.5}}",
        "training_args: null",
        "training_args: {optimizer: {}}",
        "peft_config: LORA",
        "peft_config: {}",
        "peft_config: {r: 8}",
        "peft_config: {peft_type: lora}",
        "peft_config: {peft_type: LORA, num_virtual_tokens: 8}",
        "peft_config: {peft_type: PREFIX_TUNING}",
        "peft_config: {peft_type: LORA, inference_mode: true}",
        "run: {auto_fit: 1}",
        "model_config: {freeze: vision}",
        "combine: 7",
    ],
)
def test_a_mistake_is_refused_by_the_schema_and_by_load_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{DATA}{text}\n", encoding="utf-8")
    assert schema_mistakes(path) != []
    with pytest.raises(ConfigError):
        load_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "combine: true",
        "freezeV: true",
        "swanlab: local",
        "training_args: {evaluation_strategy: steps, no_cuda: true, warmup_ratio: 0.1}",
        "training_args: {generation_num_beams: 2, adafactor: true}",
        "training_args: {push_to_hub: false, dataloader_num_workers: 4, overwrite_output_dir: true}",
        "training_args: {generation_config: {top_k: null, min_length: null}}",
        "training_args: {report_to: none}",
        "training_args: {save_steps: 0.1, logging_steps: 10}",
        "model_config: {torch_dtype: bfloat16}",
        "peft_config: null",
        "peft_config: {peft_type: LORA, inference_mode: false, target_modules: all-linear}",
    ],
)
def test_what_load_config_accepts_the_schema_accepts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{DATA}{text}\n", encoding="utf-8")
    load_config(path)
    assert schema_mistakes(path) == []


def test_an_old_name_is_marked_as_such() -> None:
    top = SCHEMA["properties"]
    args = top["training_args"]["properties"]
    old = (top["combine"], top["freezeV"], args["evaluation_strategy"], args["warmup_ratio"])
    assert all(shape["deprecated"] for shape in old)
    assert args["evaluation_strategy"]["deprecationMessage"] == "It is called eval_strategy here."
