"""Whole runs whose weights are bfloat16: they go on exactly, and learn what float32 weights learn."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune.errors import ConfigError
from finetune.train.masters import join
from finetune.train.run import train
from tests.tiers import by_tier
from tests.train.conftest import Configure

KINDS = [(kind, optim) for kind in ("split", "stochastic") for optim in ("adamw_torch", "adamw_8bit")]
BFLOAT16 = "model_config.dtype=bfloat16"


def run(
    name: str, small: Path, data: Path, configure: Configure, *overrides: str, resume: str | None = None
) -> Path:
    return train(data, str(small), configure(None, name), resume, [BFLOAT16, *overrides])


def narrow(kind: str, optim: str) -> list[str]:
    return [f"run.master_weights={kind}", f"training_args.optim={optim}"]


def state(output: Path, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(output / f"checkpoint-{step}" / "training_state.safetensors")


def losses(output: Path) -> list[float]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("kind", "optim"), by_tier(KINDS, KINDS[:1] + KINDS[-1:]))
def test_a_resumed_run_is_the_uninterrupted_run_bit_for_bit(
    kind: str, optim: str, small: Path, data: Path, configure: Configure
) -> None:
    straight = run("straight", small, data, configure, *narrow(kind, optim))
    broken = run("broken", small, data, configure, *narrow(kind, optim))
    shutil.rmtree(broken / "checkpoint-6")
    resumed = run("broken", small, data, configure, *narrow(kind, optim), resume="3")
    left, right = state(straight), state(resumed)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype and torch.equal(tensor, right[name]), name


@pytest.mark.parametrize(("kind", "optim"), by_tier(KINDS, KINDS[:1] + KINDS[-1:]))
def test_it_learns_what_float32_weights_learn(
    kind: str, optim: str, small: Path, data: Path, configure: Configure
) -> None:
    wide = losses(run("wide", small, data, configure, "training_args.optim=adamw_torch"))
    narrowed = losses(run("narrow", small, data, configure, *narrow(kind, optim)))
    assert wide[-1] < wide[0] - 0.1
    assert narrowed == pytest.approx(wide, rel=5e-3)


def test_a_checkpoint_holds_both_halves_and_a_model_in_the_dtype_of_the_base(
    small: Path, data: Path, configure: Configure
) -> None:
    output = run("split", small, data, configure, *narrow("split", "adamw_8bit"))
    saved = state(output)
    weights = {name.removeprefix("trainable/"): t for name, t in saved.items() if name.startswith("trainable/")}
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(output / "checkpoint-6")
    assert model.dtype == torch.bfloat16
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    low = saved["optimizer/lm_head.weight/low"]
    assert low.dtype == torch.int16 and low.any()
    master = join(weights["lm_head.weight"], low)
    assert torch.allclose(master, weights["lm_head.weight"].float(), rtol=2**-8)
    bytes_each = sum(t.nbytes for name, t in saved.items() if "lm_head" in name) / master.numel()
    assert bytes_each == pytest.approx(2 + 2 + 2 * (1 + 4 / 256), abs=0.01)  # the gradient is not kept


def test_the_size_of_micro_batches_changes_no_more_than_the_rounding_of_gradients(
    small: Path, data: Path, configure: Configure
) -> None:
    options = narrow("split", "adamw_torch")
    one = losses(run("one", small, data, configure, *options))
    many = losses(run("many", small, data, configure, *options, "run.tokens_per_micro_batch=1"))
    assert many == pytest.approx(one, rel=2e-3)


def test_a_base_that_is_wider_is_refused(small: Path, data: Path, configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"run\.master_weights: split .*base is float32; set model_config\.d"):
        train(data, str(small), configure(None), None, ["run.master_weights=split"])


def test_several_processes_are_refused_before_they_meet(
    small: Path, data: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"run\.master_weights: split works with one process, there are 2"):
        run("two", small, data, configure, *narrow("split", "adamw_8bit"))
