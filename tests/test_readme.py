"""What the README shows works when pasted: its console blocks are run, in order, in one folder."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.demo import story
from finetune.demo.looking import share_right
from tests.command import Done, finetune
from tests.figures import know_this_machine
from tests.tiers import NIGHTLY

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
VISION = "finetune demo --vision"
TWO = "finetune train data_examples finetune-demo/base configs/tiny/lora.yaml no --nproc 2"
"""Starts processes that import everything anew: tests/parallel/test_deaths.py does so for every change."""
SCRIPTS = ("./scripts/quickstart", "./scripts/test")  # the first runs `finetune demo`, the second runs this


def commands() -> list[str]:
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as a user has it, with nothing made in it yet."""
    place = tmp_path_factory.mktemp("checkout")
    know_this_machine(place / "cache")
    for name in ("configs", "data_examples"):
        (place / name).symlink_to(ROOT / name)
    return place


def run(command: str, folder: Path) -> Done:
    program, *arguments = shlex.split(command)
    assert program == "finetune", command
    done = finetune(arguments, folder, {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"})
    assert done.code == 0, f"{command}\n{done.err}"
    return done


def reports(folder: Path, method: str) -> list[dict[str, Any]]:
    """The demo's evaluations of the base and of the tuned model."""
    place = folder / "finetune-demo" / method / "eval"
    return [json.loads((place / name / "scores.json").read_text()) for name in ("base", "tuned")]


def test_the_first_two_commands_are_the_scripts() -> None:
    assert tuple(commands()[:2]) == SCRIPTS
    assert len(commands()) == 13


def test_after_a_hurried_demo_every_command_of_the_readme_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = {"max_steps: 200": "max_steps: 3", "save_steps: 200": "save_steps: 3"}
    monkeypatch.setitem(story._STEPS, "lora", 3)
    monkeypatch.setattr(story, "_BASE_YAML", replaced(story._BASE_YAML, hurried))
    run("finetune demo", folder)
    for command in commands()[2:]:
        if command not in (VISION, TWO):
            run(command, folder)
    assert (folder / "merged/model.safetensors").is_file()


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@NIGHTLY
def test_the_demo_gains_what_it_says(folder: Path) -> None:
    shutil.rmtree(folder / "finetune-demo", ignore_errors=True)  # of the hurried one
    demo = run("finetune demo", folder)
    base, tuned = reports(folder, "lora")
    assert tuned["scores"]["rouge-l"] >= base["scores"]["rouge-l"] + 40
    assert tuned["tool_calls"]["arguments"] > 0.9 * tuned["tool_calls"]["turns"]
    assert base["tool_calls"]["arguments"] == 0
    assert "Thank you for asking the Lighthouse desk." in demo.out


@NIGHTLY
def test_the_run_in_two_processes_works(folder: Path) -> None:
    assert TWO in commands()
    run(TWO, folder)


@NIGHTLY
def test_the_demo_with_pictures_answers_from_them(folder: Path) -> None:
    assert VISION in commands()
    run(VISION, folder)
    seen = folder / "finetune-demo/vision/eval"
    right = {name: share_right(seen / name / "predictions.jsonl") for name in ("base", "tuned", "swapped")}
    assert right["tuned"] > 0.8
    assert max(right["base"], right["swapped"]) < 0.05


@pytest.mark.long
@pytest.mark.parametrize(("method", "gain"), [("p-tuning", 15), ("full", 40)])
def test_the_other_methods_of_the_demo_gain_too(method: str, gain: int, folder: Path) -> None:
    run(f"finetune demo --method {method}", folder)
    base, tuned = reports(folder, method)
    assert tuned["scores"]["rouge-l"] >= base["scores"]["rouge-l"] + gain
