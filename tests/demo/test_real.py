"""The real demo's story on a tiny model and a few questions, stopped and repeated (in earnest: tests/real)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.demo.real_things import BFCL
from finetune.shipped import template_file

pytestmark = pytest.mark.nightly

CITIES = (
    "Rome",
    "Oslo",
    "Lima",
    "Cairo",
    "Paris",
    "Quito",
    "Delhi",
    "Seoul",
    "Tunis",
    "Hanoi",
    "Sofia",
    "Accra",
)
FUNCTION = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "dict", "required": ["city"], "properties": {"city": {"type": "string"}}},
}


def write_leaderboard(folder: Path) -> None:
    """The leaderboard's files in its form, so that nothing is fetched."""
    (folder / "possible_answer").mkdir(parents=True)
    for category in ("live_simple", "live_multiple", "simple_python"):
        asked, answers = [], []
        for number, city in enumerate(CITIES):
            question = [[{"role": "user", "content": f"Weather in {city}?"}]]
            asked.append({"id": f"{category}_{number}", "question": question, "function": [FUNCTION]})
            answers.append({"id": f"{category}_{number}", "ground_truth": [{"weather": {"city": [city]}}]})
        for place, rows in ((folder, asked), (folder / "possible_answer", answers)):
            (place / f"BFCL_v4_{category}.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_model(folder: Path) -> Path:
    from finetune.model.tiny import bpe_tokenizer
    from tests.families import tiny

    template = template_file("chatml-tools")
    special = ("<|im_end|>", "<|im_start|>", "[gMASK]", "<sop>")
    tokenizer = bpe_tokenizer([template.read_text(), *CITIES], 400, special, template.read_text())
    model = tiny("llama", vocab_size=448, eos_token_id=tokenizer.eos_token_id)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_stopped_demo_goes_on_and_a_finished_one_gets_a_successor(tmp_path: Path) -> None:
    write_leaderboard(tmp_path / "things" / f"{BFCL.name}-{BFCL.version}")
    model, output = write_model(tmp_path / "model"), tmp_path / "demo"
    command = [
        sys.executable,
        "-m",
        "finetune",
        "demo",
        "--real",
        "--model",
        f"{model}",
        "--output",
        f"{output}",
    ]
    environment = {**os.environ, "FINETUNE_REAL": f"{tmp_path / 'things'}"}

    def whole() -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path)
    while not (output / "real" / "checkpoint-11").exists() and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = whole()
    assert "going on from" in done.stderr
    assert "12 questions never seen" in done.stdout and "accepted by the leaderboard, %" in done.stdout
    assert (output / "real" / "merged" / "model.safetensors").is_file()
    whole()
    assert json.loads((output / "real-2" / "run.json").read_text())["status"] == "done"
    tuned = json.loads((output / "real-2" / "run.json").read_text())
    assert {"parsed", "name", "arguments", "accepted"} <= tuned["result"]["evaluation"]["tool_calls"].keys()
    assert "tool accepted" in (output / "real-2" / "report.html").read_text()
