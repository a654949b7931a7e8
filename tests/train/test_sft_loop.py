"""The plain loop of scripts/ trains what `finetune train` trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.train.run import train
from scripts import sft_loop
from tests.train.conftest import LORA, PREFIX, Configure

METHODS: dict[str, dict[str, Any] | None] = {
    "lora": LORA | {"lora_dropout": 0.0},
    "prefix": PREFIX | {"prefix_init": "random"},
    "full": None,
}


@pytest.mark.parametrize("method", METHODS)
def test_losses_and_weights_are_those_of_the_command(
    method: str, small: Path, data: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(METHODS[method], weight_decay=0.1, max_grad_norm=0.1)
    output = train(data, small, config)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    capsys.readouterr()
    sft_loop.main(data, str(small), config, data.parent / "plain")
    told = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert told == pytest.approx([line["loss"] for line in lines if "loss" in line], abs=2e-6)
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    ours, plain = (load_file(place / name) for place in (output / "checkpoint-6", data.parent / "plain"))
    assert ours.keys() == plain.keys()
    if method != "full":
        assert all(torch.equal(ours[key], plain[key]) for key in ours)
    for key in ours:
        torch.testing.assert_close(plain[key], ours[key], rtol=1e-4, atol=1e-5)


def test_it_stays_short() -> None:
    assert len(Path(sft_loop.__file__).read_text(encoding="utf-8").splitlines()) <= 150
