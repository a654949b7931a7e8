"""scripts/benchmark on a really tiny model: ours and transformers' Trainer."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from scripts.benchmark.__main__ import main
from scripts.benchmark.equality import compare
from scripts.benchmark.options import parse
from scripts.benchmark.recorder import GRADIENTS_FILE
from scripts.benchmark.work import Wanted, Work

STEPS, BATCH = 3, 2
SET_BY_IT = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_OFFLINE")


@pytest.mark.nightly
def test_tools_agree_and_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SET_BY_IT:
        monkeypatch.setenv(name, "1")  # so that what the benchmark sets is undone
    asked = f"--shape tiny --steps {STEPS} --batch {BATCH} --rounds 1 --threads 1 --tools Trainer"
    main([*asked.split(), "--keep", str(tmp_path), "--json", str(tmp_path / "all.json")])

    printed = capsys.readouterr().out
    (result,) = json.loads((tmp_path / "all.json").read_text())
    ours, peer = result["runs"]
    assert [line["tool"] for line in result["table"]] == ["finetune", "Trainer + peft"]
    assert [line["agrees"] for line in result["table"]] == ["-", "yes"]
    assert "Trainer + peft agrees" in printed and "| finetune " in printed
    # One counter for all, and the same conversations in every step.
    assert (ours["tokens"], ours["supervised"]) == (peer["tokens"], peer["supervised"])
    assert len(ours["ends"]) == len(peer["ends"]) == STEPS
    assert ours["loss"] == pytest.approx(peer["loss"], rel=1e-2)  # in bfloat16

    check = tmp_path / "lora" / "checks" / "plain" / "Trainer-+-peft"
    work = _work(tmp_path, asked)
    gradients = load_file(check / GRADIENTS_FILE)
    save_file({name: 1.001 * tensor for name, tensor in gradients.items()}, check / GRADIENTS_FILE)
    wrong = compare(work, check, their_loss=json.loads((check / "log.json").read_text())["loss"])
    assert not wrong.agrees
    assert wrong.gradients == pytest.approx(1e-3, rel=1e-2)
    assert wrong.same_conversations


def _work(folder: Path, asked: str) -> Work:
    """The work that the benchmark left in `folder`."""
    options = parse(asked.split())
    wanted = Wanted(options.shape, options.methods, "cpu", STEPS, BATCH, options.max_length, None)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    lengths = tuple((len(row["labels"]) - row["labels"].count(-100), len(row["labels"])) for row in rows)
    return Work(wanted, folder, "lora", folder / "lora" / "adapter", lengths)
