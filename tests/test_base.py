"""An adapter knows the base it learnt beside: another one of the same shape is told, and never merged into."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.base import base_identity, compare_base
from finetune.cli import main
from finetune.train.run import train
from tests.train.conftest import LORA, rows

Run = tuple[Path, Path]


@pytest.fixture(scope="module")
def trained(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A base of its own, and a run of LoRA on it."""
    place = tmp_path_factory.mktemp("trained")
    shutil.copytree(small, place / "base")
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(4)))
    config = {
        "data_config": {"train_file": "train.jsonl"},
        "peft_config": LORA,
        "training_args": {"max_steps": 2, "learning_rate": 0.02, "output_dir": str(place / "run")},
    }
    (place / "lora.yaml").write_text(json.dumps(config))
    return place / "base", train(place, str(place / "base"), place / "lora.yaml")


def tuned_on(name: str) -> Callable[[Path], None]:
    """A base of the same shape of which one matrix differs, as after a merge of an adapter on it."""

    def change(base: Path) -> None:
        tensors = load_file(base / "model.safetensors")
        tensors[name] = tensors[name] + 0.01
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    return change


def redescribed(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"use_cache": False}))


CHANGES: dict[str, Callable[[Path], None]] = {
    "one matrix": tuned_on("model.layers.1.self_attn.q_proj.weight"),
    "a norm": tuned_on("model.norm.weight"),
    "embeddings": tuned_on("model.embed_tokens.weight"),
}


@pytest.fixture
def swapped(trained: Run) -> Run:
    """The run, whose base may be changed; put back afterwards."""
    base, run = trained
    kept = base.with_name("kept")
    shutil.copytree(base, kept)
    yield base, run
    shutil.rmtree(base)
    kept.rename(base)


@pytest.mark.parametrize("change", CHANGES)
def test_a_base_is_another_one_when_a_single_tensor_is(change: str, swapped: Run) -> None:
    base, run = swapped
    before, checkpoint = base_identity(base), run / "checkpoint-2"
    assert compare_base(checkpoint, base) is None
    CHANGES[change](base)
    assert base_identity(base) != before
    other = compare_base(checkpoint, base)
    assert other is not None and other.weights == ("model.safetensors",) and not other.described


def test_where_the_base_lies_does_not_matter(trained: Run, tmp_path: Path) -> None:
    base, run = trained
    shutil.copytree(base, tmp_path / "elsewhere")
    assert compare_base(run / "checkpoint-2", tmp_path / "elsewhere") is None
    other = compare_base(run / "checkpoint-2", "org/name")
    assert other is not None and other.unknown


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["finetune", *map(str, words)])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    return code, capsys.readouterr().err


SAID = "was trained on a base with other weights than there are now (model.safetensors): "


def test_whatever_talks_warns_and_a_merge_refuses_until_it_is_meant(
    swapped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = swapped
    (tmp_path / "dev.jsonl").write_text(json.dumps(rows(1)[0]) + "\n")
    talking = {
        "chat": (run, "--message", "say red", "--max-new-tokens", 2),
        "generate": (run, tmp_path / "dev.jsonl", tmp_path / "out.jsonl", "--max-new-tokens", 2),
        "eval": (run, tmp_path / "dev.jsonl", "--output", tmp_path / "eval"),
    }
    assert SAID not in command(monkeypatch, capsys, "chat", *talking["chat"])[1]
    CHANGES["one matrix"](base)
    for name, words in talking.items():
        code, said = command(monkeypatch, capsys, name, *words)
        assert code == 0 and f"warning: {run / 'checkpoint-2'}: {SAID}{base}" in said, said
    code, said = command(monkeypatch, capsys, "merge", run, tmp_path / "merged")
    assert code == 2 and SAID in said and "--other-base" in said
    assert not (tmp_path / "merged").exists()
    code, said = command(monkeypatch, capsys, "merge", run, tmp_path / "merged", "--other-base")
    assert code == 0 and SAID in said and (tmp_path / "merged" / "model.safetensors").is_file()


def test_a_base_that_is_only_described_otherwise_is_told(
    swapped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = swapped
    redescribed(base)
    code, said = command(monkeypatch, capsys, "merge", run, tmp_path / "merged")
    assert code == 0 and "a base with another description than there are now (config.json)" in said


def test_a_sample_is_taken_from_the_middle_of_every_tensor_and_costs_little(tmp_path: Path) -> None:
    """Eight samples of a file see a few of a hundred tensors."""
    tensors = {f"layer.{n:03}": torch.zeros(40, 40) for n in range(100)}
    (tmp_path / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "model.safetensors")
    seen = set()
    for name in tensors:
        save_file(tensors | {name: torch.ones(40, 40)}, tmp_path / "model.safetensors")
        seen.add(json.dumps(base_identity(tmp_path)))
    assert len(seen) == 100
