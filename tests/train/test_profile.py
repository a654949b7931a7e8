"""`--profile`: the same run, a table of its parts and a trace."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from finetune.config.load import load_config
from finetune.train.launcher import launch
from finetune.train.profile import Part, Profile, part_of, table
from finetune.train.run import run, train
from tests.train.conftest import LORA, Configure


def losses(output: Path) -> list[float]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    "peft", [pytest.param(LORA, id="lora"), pytest.param(None, id="full", marks=pytest.mark.nightly)]
)
def test_a_profiled_run_is_the_same_run(
    peft: dict[str, Any] | None,
    small: Path,
    data: Path,
    configure: Configure,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = train(data, str(small), configure(peft, "plain"))
    config = load_config(configure(peft, "profiled"), data_dir=data)
    profiled = run(config, data, str(small), None, profiled=True)
    said = capsys.readouterr().err
    assert losses(profiled) == losses(plain)
    name = "checkpoint-6/training_state.safetensors"
    left, right = load_file(plain / name), load_file(profiled / name)
    assert {key: value.numpy().tobytes() for key, value in left.items()} == {
        key: value.numpy().tobytes() for key, value in right.items()
    }
    assert not (plain / "trace.json.gz").exists()
    rows = {line[:24].strip(): line[24:].split() for line in said.splitlines() if " ms " in line}
    assert {"linear layers", "attention", "norms", "head", "loss", "optimizer"} <= rows.keys()
    shares = [float(row[0]) for row in rows.values()]
    assert 99 < sum(shares) < 101
    assert shares == sorted(shares, reverse=True)
    assert float(rows["linear layers"][4]) > 0  # the backward pass
    assert float(rows["optimizer"][4]) == 0


def test_the_trace_holds_the_watched_steps_and_only_those(
    small: Path, data: Path, configure: Configure
) -> None:
    output = launch(data, str(small), configure(LORA), None, (), profiled=True)
    trace = json.loads(gzip.decompress((output / "trace.json.gz").read_bytes()))
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert names.count("part of a step: everything between") == 3
    assert not list(output.glob("tmp-*"))


@pytest.mark.parametrize(
    ("start", "total", "watched"),
    [(0, 100, (3, 5)), (0, 5, (3, 5)), (0, 4, (3, 4)), (0, 2, (2, 2)), (0, 1, (1, 1)), (50, 100, (53, 55))],
)
def test_the_steps_behind_the_warm_up_are_watched(
    start: int, total: int, watched: tuple[int, int], tmp_path: Path
) -> None:
    profile = Profile.of_run(tmp_path, None, start, total)  # type: ignore[arg-type]
    assert (profile.first, profile.last) == watched


def test_modules_are_told_apart_by_what_they_do(small: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small)
    parts = {name: part_of(name, module) for name, module in model.named_modules() if name}
    assert parts["model.embed_tokens"] == "embeddings"
    assert parts["model.layers.0.self_attn"] == "attention"
    assert parts["model.layers.0.self_attn.q_proj"] == "linear layers"
    assert parts["model.layers.0.input_layernorm"] == "norms"
    assert parts["model.layers.0.mlp"] == "activations of the MLP"
    assert parts["model.layers.0"] is None
    assert parts["lm_head"] == "head"


def test_the_slowest_part_stands_first_in_milliseconds_a_step() -> None:
    parts = {"norms": Part(1.0, 1.0, 2.0, 8), "attention": Part(4.0, 2.0, 9.0, 4)}
    assert table(parts, 2)[1:] == [
        "attention                75.0 %      2.0 ms      1.0 ms      4.5 ms       2",
        "norms                    25.0 %      0.5 ms      0.5 ms      1.0 ms       4",
    ]


def test_hooks_are_gone_when_a_step_fails(tmp_path: Path) -> None:
    from torch import nn

    module = nn.Sequential(nn.Linear(2, 2))
    profile = Profile(tmp_path, module, 1, 3)
    with pytest.raises(ZeroDivisionError), profile.step(1):
        raise ZeroDivisionError
    assert not module[0]._forward_hooks and not module[0]._forward_pre_hooks
