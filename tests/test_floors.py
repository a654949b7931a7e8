"""The floors of the house hold, and what must answer at once does not load torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "peft",
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "safetensors",
    "datasets",
    "pandas",
    "nltk",
)
LIGHT = (
    "finetune",
    "finetune.cli",
    "finetune.config",
    "finetune.chat",
    "finetune.data",
    "finetune.doctor",
    "finetune.estimate",
    "finetune.eval.metrics",
    "finetune.folder",
    "finetune.launch",
    "finetune.report",
)
COMMANDS = (
    "train",
    "rerun",
    "eval",
    "generate",
    "chat",
    "merge",
    "demo",
    "doctor",
    "check",
    "explain",
    "docs",
    "init",
    "launch",
    "show",
    "estimate",
)


def test_a_module_imports_downwards_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)


def heavy_modules_after(code: str, *arguments: str) -> list[str]:
    """Which heavy libraries a fresh process has loaded when `code` ends."""
    epilogue = "\nimport json, sys\nprint(); print(json.dumps(sorted(sys.modules)))"
    result = run(code + epilogue, *arguments)
    assert result.returncode == 0, result.stderr
    loaded = json.loads(result.stdout.splitlines()[-1])
    return [name for name in loaded if name in HEAVY or name.startswith("transformers.models.")]


def modules_of(room: str) -> list[str]:
    """A light room's modules, from the files: chat.load is the door to transformers' tokenizers."""
    folder = ROOT / room.replace(".", "/")
    files = folder.rglob("*.py") if folder.is_dir() and room != "finetune" else [folder.with_suffix(".py")]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return [name.removesuffix(".__init__") for name in names]


def test_light_rooms_load_nothing_heavy() -> None:
    names = sorted({name for room in LIGHT if room != "finetune" for name in modules_of(room)} | {"finetune"})
    assert heavy_modules_after("\n".join(f"import {name}" for name in names)) == []


HELP = """
import sys
from finetune.cli import main
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
"""


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS)], ids=lambda command: " ".join(command)
)
def test_help_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    assert heavy_modules_after(HELP, *command, "--help") == []


def test_the_version_loads_nothing_heavy() -> None:
    assert heavy_modules_after(HELP, "--version") == []


UNUSED = (
    "datasets",
    "deepspeed",
    "jieba",
    "mlflow",
    "nltk",
    "pandas",
    "pyarrow",
    "rouge_chinese",
    "scipy",
    "sklearn",
    "tensorboard",
    "transformers.trainer",
    "wandb",
)


@pytest.mark.nightly
def test_training_loads_no_library_that_it_does_not_use() -> None:
    """What transformers and peft load themselves (torch._dynamo, bitsandbytes) is not ours to choose."""
    code = "import json, sys, finetune.train.session\nprint(); print(json.dumps(sorted(sys.modules)))"
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert [name for name in json.loads(result.stdout.splitlines()[-1]) if name in UNUSED] == []


@pytest.mark.nightly
def test_a_model_without_an_adapter_answers_without_peft(taught: Path) -> None:
    """With what it brings along (bitsandbytes, torch's compiler) that takes longer to load than the model."""
    code = """
import sys
from finetune.data.encode import Prompt
from finetune.infer.engine import Sampling
from finetune.infer.load import load_engine
import finetune.serve.terminal, finetune.infer.command, finetune.eval.command
engine = load_engine(sys.argv[1])
assert engine.generate([Prompt([1])], Sampling(max_new_tokens=2))
list(engine.stream(Prompt([1]), Sampling(max_new_tokens=2)))
"""
    loaded = heavy_modules_after(code, str(taught))
    assert {"torch", "safetensors"} <= set(loaded)
    assert not {"peft", "bitsandbytes", "deepspeed", "datasets", "pandas", "nltk"} & set(loaded)


def test_loading_torch_leaves_it_out_of_every_later_search_for_garbage() -> None:
    code = """
import gc
from finetune.startup import loading
with loading():
    assert not gc.isenabled()
    import json
assert gc.isenabled() and not gc.get_freeze_count()
with loading():
    import torch
assert gc.isenabled()
before = gc.get_freeze_count()
assert before > 100_000, before
with loading():
    import torch.nn
assert gc.get_freeze_count() <= before
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
