"""What a run says before it trains: settings and bases that can be meant, but hardly are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

from finetune.errors import ModelError
from finetune.train.run import train
from tests.train.conftest import LORA, Configure


def test_a_warm_up_that_outlasts_the_epochs_is_told_with_its_line(
    small: Path, data: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(LORA, max_steps=-1, num_train_epochs=1, warmup_steps=3)
    train(data, str(small), config)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warm-up" in line]
    written = config.read_text().splitlines().index("  warmup_steps: 3") + 1
    assert line == (
        f"warning: {config}:{written}: training_args.warmup_steps: the run ends before its warm-up does: "
        "learning_rate is never reached in 3 steps"
    )


def test_an_auxiliary_loss_that_is_not_trained_is_told(
    small: Path, data: Path, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    said = {}
    for asked in (False, True):
        folder = tmp_path / f"mixtral-{asked}"
        shutil.copytree(small, folder)
        config = MixtralConfig(**shape, **heads, output_router_logits=asked, router_aux_loss_coef=0.02)
        MixtralForCausalLM(config).save_pretrained(folder)
        peft = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
        train(data, str(folder), configure(peft, f"out-{asked}", max_steps=1))
        said[asked] = capsys.readouterr().err
    assert "output_router_logits" not in said[False]
    assert "output_router_logits: true asks for the auxiliary loss" in said[True]
    assert "router_aux_loss_coef 0.02" in said[True]


def test_a_base_with_a_nan_is_refused_before_it_is_trained(
    small: Path, data: Path, configure: Configure, tmp_path: Path
) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"not finite .*: model\.layers\.0\.mlp\.down_proj\.weight \(1 of"):
        train(data, str(folder), configure(LORA))
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["status"], run["exit_code"]) == ("failed", 2)
