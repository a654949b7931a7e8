"""Exit codes: one for each kind of end, each in the README; defects of our own are not told as the user's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune import errors
from finetune.errors import InternalError, MemoryExhaustedError, ModelError, exit_code_of

README = Path(__file__).parents[1] / "README.md"


def kinds() -> list[type[errors.FinetuneError]]:
    """Every error that has a name of its own."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.FinetuneError) and kind is not errors.ToldError]


def test_the_readme_lists_every_exit_code_and_no_other() -> None:
    (told,) = re.findall(
        r"^Exit codes: (.*?)\n\n", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    listed = {int(entry.split()[0]) for entry in re.split(r"\s*·\s*", told.strip())}
    assert listed == {0, *(kind.exit_code for kind in kinds())}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("no such folder"), 2),
        (MemoryExhaustedError("out of memory"), 10),
        (MemoryError(), 10),
        (torch.OutOfMemoryError("CUDA out of memory"), 10),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 10),
        (RuntimeError("the size of tensor a must match"), 70),
        (AssertionError(), 70),
        (KeyError("x"), 70),
        (InternalError("the ledger accounts for 5 of 6 rows"), 70),
        (OSError(28, "No space left on device"), 8),
        (KeyboardInterrupt(), 130),
    ],
    ids=str,
)
def test_what_ends_a_process_decides_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize(
    ("raised", "code", "said", "traced"),
    [
        ("KeyError('shape')", 70, "error: KeyError: 'shape'; this is a defect of finetune", True),
        ("InternalError('2 of 3 rows')", 70, "error: internal error: 2 of 3 rows; this is a defect", True),
        ("MemoryError()", 10, "error: out of memory (MemoryError)", False),
        ("ModelError('no such folder')", 2, "error: no such folder", False),
    ],
)
def test_a_defect_shows_where_it_arose_and_asks_to_be_reported(
    raised: str, code: int, said: str, traced: bool
) -> None:
    program = (
        "import sys; from finetune import doctor; from finetune.cli import main\n"
        "from finetune.errors import *\n"
        f"def broken(): raise {raised}\n"
        "doctor.doctor = broken; sys.argv = ['finetune', 'doctor']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(said), done.stderr
    assert ("Traceback" in done.stderr) is traced
    assert ("please report it" in done.stderr) is traced


def test_memory_that_runs_out_while_a_model_is_loaded_is_no_damaged_model(tmp_path: Path) -> None:
    """transformers raises RuntimeError for both."""
    from finetune.config.schema import ModelConfig
    from finetune.model.load import load_base
    from finetune.model.tiny import make_tiny

    folder = make_tiny(
        tmp_path / "model", hidden_size=32, intermediate_size=48, num_hidden_layers=1, head_dim=8
    )
    config = (
        (folder / "config.json")
        .read_text()
        .replace('"intermediate_size": 48', '"intermediate_size": 99999999999')
    )
    (folder / "config.json").write_text(config)
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        load_base(folder, ModelConfig(), device=torch.device("cpu"))
    assert exit_code_of(raised.value) == 10
