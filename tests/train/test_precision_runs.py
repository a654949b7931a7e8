"""Runs on a processor that is slow in the base's dtype: computed in float32, saved in the base's dtype."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.estimate.processor import Processor, keep
from finetune.export.merge import merge
from finetune.train import session
from finetune.train.run import train
from tests.tiers import by_tier
from tests.train.conftest import LORA, PREFIX, Configure

PLAIN = LORA | {"lora_dropout": 0.0}


@pytest.fixture
def narrow(small: Path, tmp_path: Path) -> Path:
    """The small model, stored in bfloat16."""
    return stored(small, tmp_path / "narrow", torch.bfloat16)


def stored(model: Path, folder: Path, dtype: torch.dtype) -> Path:
    AutoModelForCausalLM.from_pretrained(model, dtype=dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`processor(slowdown)`: what is known of products in bfloat16 on this machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda slowdown: keep(Processor({"BF16": slowdown}))


def told(output: Path) -> tuple[str, str]:
    """The dtype of the base, and of its products, as run.json has them."""
    base = json.loads((output / "run.json").read_text())["base"]
    return base["dtype"], base["compute_dtype"]


def losses(output: Path) -> list[float]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("peft", [PLAIN, PREFIX, None], ids=["lora", "prefix", "full"])
def test_a_bfloat16_base_learns_as_its_float32_copy_does(
    peft: dict[str, Any] | None, narrow: Path, data: Path, configure: Configure, processor: Any,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    processor(9.0)
    output = train(data, str(narrow), configure(peft, "narrow"))
    assert told(output) == ("bfloat16", "float32")
    assert capsys.readouterr().err.count("computing in float32: this processor multiplies bfloat16") == 1
    wide = stored(narrow, tmp_path / "wide", torch.float32)
    assert losses(output) == pytest.approx(losses(train(data, str(wide), configure(peft, "wide"))), rel=1e-6)


def test_a_model_that_learnt_whole_is_saved_in_the_dtype_of_its_base(
    narrow: Path, data: Path, configure: Configure, processor: Any
) -> None:
    processor(9.0)
    checkpoint = train(data, str(narrow), configure(None, max_steps=1)) / "checkpoint-1"
    assert {tensor.dtype for tensor in load_file(checkpoint / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_is_merged_into_the_dtype_of_its_base(
    narrow: Path, data: Path, configure: Configure, processor: Any, tmp_path: Path
) -> None:
    processor(9.0)
    output = train(data, str(narrow), configure(PLAIN, learning_rate=0.1))
    merge(str(output), tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


def test_who_states_the_dtype_gets_it_with_a_word(
    narrow: Path, data: Path, configure: Configure, processor: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    processor(9.0)
    path = configure(PLAIN, max_steps=1)
    output = train(data, str(narrow), path, overrides=["model_config.dtype=bfloat16"])
    assert told(output) == ("bfloat16", "bfloat16")
    said = "warning: model_config.dtype: bfloat16: this processor multiplies bfloat16 matrices 9.0 times slower"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "then", "dtype"),
    by_tier([(1.0, 9.0, "bfloat16"), (9.0, 1.0, "float32")], [(9.0, 1.0, "float32")]),
)
def test_a_run_goes_on_in_the_same_dtype_on_another_processor(
    first: float, then: float, dtype: str, narrow: Path, data: Path, configure: Configure, processor: Any
) -> None:
    path = configure(PLAIN)
    processor(first)
    whole = shutil.copytree(train(data, str(narrow), path), path.with_name("whole"))
    processor(then)
    resumed = train(data, str(narrow), path, resume="3")
    assert told(resumed)[1] == dtype
    one, other = (load_file(run / "checkpoint-6" / "training_state.safetensors") for run in (whole, resumed))
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


METHODS = {
    "lora": PLAIN,
    "dropout": LORA,
    "prefix": PREFIX,
    "dora": LORA | {"use_dora": True},
    "head": LORA | {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_do_not_fit_in_float32_are_widened_one_by_one_to_the_same_numbers(
    method: str, narrow: Path, data: Path, configure: Configure, processor: Any,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    processor(9.0)
    alike, tokens = {"max_steps": 2, "gradient_checkpointing": False}, ["run.tokens_per_micro_batch=512"]
    plain = train(data, str(narrow), configure(METHODS[method], "plain", **alike), overrides=tokens)
    monkeypatch.setattr(session, "free_memory", lambda device: 1000)
    capsys.readouterr()
    layers = train(data, str(narrow), configure(METHODS[method], "layers", **alike), overrides=tokens)
    assert "computing in float32, each weight widened while it is used" in capsys.readouterr().err
    one, other = losses(layers), losses(plain)
    assert one[0] == pytest.approx(other[0], rel=1e-7)
    assert one[1] == pytest.approx(other[1], rel=5e-6)  # behind a step of Adam, which divides by small numbers


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_weights_are_multiplied_in_float32(
    kind: str, narrow: Path, data: Path, configure: Configure, processor: Any
) -> None:
    pytest.importorskip("bitsandbytes")
    processor(9.0)
    path = configure(PLAIN, max_steps=1)
    output = train(data, str(narrow), path, overrides=[f"model_config.quantization={kind}"])
    assert told(output) == ("bfloat16", "float32")
