"""What is counted from files is what the model has when it is made."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.load import parse_config
from finetune.config.schema import Config
from finetune.errors import ConfigError, ModelError
from finetune.estimate.machine import free_bytes, in_words, parse_size, resident_bytes
from finetune.estimate.method import method_of
from finetune.estimate.shape import read_shape
from tests.seeing import make_seeing

METHODS: dict[str, dict[str, Any] | None] = {
    "full": None,
    "lora": {"peft_type": "LORA", "r": 4, "target_modules": ["query_key_value", "dense_4h_to_h"]},
    "lora of all": {"peft_type": "LORA", "target_modules": "all-linear", "rank_pattern": {"q_proj": 2}},
    "lora by pattern": {"peft_type": "LORA", "target_modules": ".*[kv]_proj"},
    "lora of one layer": {"peft_type": "LORA", "target_modules": ["o_proj"], "layers_to_transform": [1]},
    "lora and head": {"peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5},
    "projected prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": True},
    "p-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "encoder_hidden_size": 24},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj"], "feedforward_modules": []},
}


def config_of(peft: dict[str, Any] | None, **sections: Any) -> Config:
    content = {"data_config": {"train_file": "train.jsonl"}, **sections}
    return parse_config(content if peft is None else content | {"peft_config": peft}, "test")


@pytest.mark.parametrize("name", METHODS)
def test_what_learns_is_counted_as_peft_makes_it(name: str, small: Path) -> None:
    from finetune.model.load import load_base
    from finetune.model.tuning import apply_tuning

    config = config_of(METHODS[name])
    base = load_base(small, config.model, device=torch.device("cpu"))
    tuned = apply_tuning(base, config.peft_config)
    method = method_of(config, read_shape(small))
    assert method.trainable == sum(parameter.numel() for _, parameter in tuned.trainable())
    assert method.virtual_tokens == tuned.virtual_tokens


def test_frozen_weights_do_not_learn(small: Path) -> None:
    shape = read_shape(small)
    method = method_of(config_of(None, model_config={"freeze": ["embed_tokens"]}), shape)
    assert method.trainable == shape.parameters - shape.vocabulary * shape.hidden


FAMILIES = ["glm4v", "glm46v", "qwen2_5_vl", "qwen3_vl"]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of each family that sees."""
    folder = tmp_path_factory.mktemp("seeing")
    return {family: make_seeing(folder / family, family) for family in [*FAMILIES, "glm4v_moe"]}


@pytest.mark.parametrize(
    ("method", "freeze"),
    [
        ("full", None),
        ("full", ["vision"]),
        ("full", ["tower", "embed_tokens"]),
        ("full", ["projector"]),
        ("lora", None),
        ("lora", []),
        ("lora of all", None),
        ("lora by pattern", None),
        ("prefix", None),
        ("ia3", None),
    ],
)
def test_what_learns_of_a_model_that_sees_is_counted_too(
    method: str, freeze: list[str] | None, seeing: dict[str, Path]
) -> None:
    from finetune.model.load import load_base
    from finetune.model.tuning import apply_tuning

    config = config_of(METHODS[method], model_config={"freeze": freeze})
    families = [*FAMILIES, "glm4v_moe"] if METHODS[method] is None else FAMILIES
    for family in families:
        base = load_base(seeing[family], config.model, device=torch.device("cpu"))
        tuned = apply_tuning(base, config.peft_config, freeze=config.model.freeze)
        found = method_of(config, read_shape(seeing[family]))
        learning = dict(tuned.trainable())
        assert found.trainable == sum(parameter.numel() for parameter in learning.values()), family
        assert found.looks == any(".visual.blocks." in name for name in learning), family


def test_adapters_of_the_tower_are_counted_where_they_are_let_in(seeing: dict[str, Path]) -> None:
    from finetune.model.load import load_base
    from finetune.model.tuning import apply_tuning

    for freeze, looks in (([], True), (["tower"], False)):
        config = config_of(METHODS["lora of all"], model_config={"freeze": freeze})
        base = load_base(seeing["glm4v"], config.model, device=torch.device("cpu"))
        tuned = apply_tuning(base, config.peft_config, freeze=config.model.freeze)
        found = method_of(config, read_shape(seeing["glm4v"]))
        assert (found.trainable, found.looks) == (sum(p.numel() for _, p in tuned.trainable()), looks)


def test_the_language_model_and_the_tower_are_read_apart(seeing: dict[str, Path]) -> None:
    shape = read_shape(seeing["glm4v"])
    text = json.loads((seeing["glm4v"] / "config.json").read_text())["text_config"]
    assert (shape.layers, shape.hidden) == (text["num_hidden_layers"], text["hidden_size"])
    tower = shape.tower
    assert tower is not None
    assert (tower.layers, tower.hidden, tower.heads, tower.gated, tower.merge) == (2, 16, 2, True, 2)
    assert tower.pixels == 3 * 2 * 14 * 14


def test_every_weight_is_counted(small: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small)
    shape = read_shape(small)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.dtype, shape.layers, shape.vocabulary) == ("F32", 2, model.config.vocab_size)


def broken(tmp_path: Path, small: Path, name: str, content: bytes | None) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in small.iterdir():
        if file.name != name:
            (folder / file.name).write_bytes(file.read_bytes())
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", b"{", "cannot be read"),
        ("config.json", b"[]", "not a JSON object"),
        ("config.json", b'{"hidden_size": 8}', "num_attention_heads is None"),
        ("model.safetensors", None, "no \\*.safetensors"),
        ("model.safetensors", b"\xff" * 64, "not a safetensors file"),
        ("model.safetensors", b"", "not a safetensors file"),
    ],
)
def test_a_broken_model_is_refused_by_the_name_of_its_file(
    name: str, content: bytes | None, said: str, small: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=said):
        read_shape(broken(tmp_path, small, name, content))


def test_a_file_that_the_index_names_must_be_there(small: Path, tmp_path: Path) -> None:
    folder = broken(tmp_path, small, "nothing", None)
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors: missing"):
        read_shape(folder)


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("80 GiB", 80 * 2**30), ("1.5g", 15 * 10**8), ("512", 512), ("64mb", 64 * 10**6)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "24XB", "0", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="24GB"):
        parse_size(text)


def test_sizes_are_told_in_three_digits() -> None:
    assert [in_words(size) for size in (12_345_678, 1_384_000_000, 24_000_000_000)] == [
        "12 MB",
        "1.38 GB",
        "24 GB",
    ]


def test_processes_share_what_is_free() -> None:
    own = resident_bytes()
    alone, shared = free_bytes(1) - own, free_bytes(4) - own
    assert 0.2 * alone < shared < 0.3 * alone


def test_the_estimate_knows_the_sizes_that_the_code_uses() -> None:
    from finetune.estimate import activations, memory
    from finetune.model import blockwise, cross_entropy, vision

    chunks = {"cpu": cross_entropy.CHUNK_BYTES_ON_CPU, "cuda": cross_entropy.CHUNK_BYTES}
    assert chunks == memory.HEAD_CHUNK_BYTES
    assert (activations.BLOCKWISE_LONGEST, activations.BLOCK) == (blockwise.LONGEST, blockwise._BLOCK)
    assert activations.PICTURES_AT_HAND == vision.BUDGET


@pytest.mark.parametrize(
    ("masters", "optim", "micro_batches", "bytes_each"),
    [
        ("split", "adamw_8bit", 1, 8),
        ("split", "adamw_8bit", 2, 10),
        ("split", "adamw_torch", 1, 14),
        ("stochastic", "adamw_8bit", 1, 6),
        ("float32", "adamw_torch", 1, 16),
    ],
)
def test_weights_that_learn_in_bfloat16_take_what_their_optimizer_says(
    masters: str, optim: str, micro_batches: int, bytes_each: int, small: Path
) -> None:
    from dataclasses import replace

    from finetune.estimate.memory import memory_of
    from finetune.estimate.setup import Setup
    from finetune.estimate.work import Work

    wanted = {"run": {"master_weights": masters}, "training_args": {"optim": optim}}
    config = config_of(None, model_config={"dtype": "bfloat16"}, **wanted)
    setup = Setup.of(config, read_shape(small), device="cpu", ranks=1)
    assert setup.autocast is (masters == "float32")
    work = replace(Work.assumed(100, 2, 1), step_tokens=100 * micro_batches)
    parts = memory_of(setup, work.load(100)).parts
    state = sum(parts[name] for name in ("weights", "gradients", "optimizer"))
    assert state / setup.shape.parameters == pytest.approx(bytes_each, abs=0.15)
