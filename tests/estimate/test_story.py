"""`finetune estimate`, as it is called."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.estimate.story import estimate
from finetune.train.run import train
from tests.train.conftest import LORA, PREFIX, Configure


@pytest.fixture
def path(configure: Configure) -> Path:
    return configure(LORA)


def test_the_estimate_of_a_run_is_the_one_the_run_makes(data: Path, small: Path, path: Path) -> None:
    output = train(data, str(small), path)
    run = json.loads((output / "run.json").read_text())
    found = estimate(str(small), path, data_dir=data)
    estimated, taken = dict(found.choice.memory.parts), run["memory"]["parts"]
    # The process that runs this test has loaded more than a run's own has, which is what is measured.
    assert 0 < estimated.pop("libraries") <= 1.2 * taken.pop("libraries")
    assert estimated == taken
    assert (found.steps, found.tokens) == (
        run["result"]["steps"],
        pytest.approx(run["result"]["tokens"], rel=0.2),
    )
    method = found.setup.method
    assert method.trainable == run["base"]["trainable"]
    assert found.setup.shape.parameters + method.trainable == run["base"]["parameters"]


def test_every_part_is_told_and_adds_up(data: Path, small: Path, path: Path) -> None:
    found = estimate(str(small), path, data_dir=data)
    told = "\n".join(found.lines())
    assert all(f"  {name} " in told for name in found.choice.memory.parts)
    assert "12 conversations" in told and "6 steps" in told and "fits into" in told
    assert found.as_dict()["memory"]["peak_bytes"] == sum(found.as_dict()["memory"]["parts"].values())


def test_without_data_the_assumption_is_told(small: Path, path: Path) -> None:
    told = "\n".join(estimate(str(small), path).lines())
    assert "assumed are conversations as long as the limits allow, 1,024 tokens" in told


def test_one_file_can_stand_for_the_data(data: Path, small: Path, path: Path) -> None:
    found = estimate(str(small), path, data=str(data / "dev.jsonl"))
    assert found.work.conversations == 4


def test_what_does_not_fit_is_told_with_a_change_that_would(small: Path, path: Path) -> None:
    found = estimate(str(small), path, ["run.tokens_per_micro_batch=1024"], gpu="601MB")
    told = "\n".join(found.lines())
    assert "does not fit into 601 MB (--gpu)" in told and not found.choice.fits
    assert "it would fit with" in told or "no change that is known" in told


@pytest.mark.parametrize("peft", [LORA, PREFIX, None], ids=["lora", "prefix", "full"])
def test_more_tokens_take_more(peft: dict[str, Any] | None, small: Path, configure: Configure) -> None:
    path = configure(peft, per_device_train_batch_size=16)
    sizes = [
        estimate(str(small), path, [f"run.tokens_per_micro_batch={tokens}"], gpu="80GB").choice.memory.total
        for tokens in (1024, 4096, 16384)
    ]
    assert sizes == sorted(set(sizes))


def test_nothing_heavy_is_loaded_and_json_is_printed(data: Path, small: Path, path: Path) -> None:
    code = (
        "import sys, json\nfrom finetune.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'peft', 'accelerate', 'datasets'} & set(sys.modules)\n"
        "assert not heavy and not any(m.startswith('transformers.models.glm') for m in sys.modules), heavy"
    )
    words = ["estimate", str(small), str(path), "--data-dir", str(data), "--gpu", "24GB", "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["fits"] is True and told["conversations"] == 12 and told["seconds"][0] < told["seconds"][1]
