"""What reaches stdout: results alone, and no complaint where their reader has gone away."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

LOAD = """
import finetune.export.merge, finetune.infer.load, finetune.train.session
"""
LOAD_DEEPSPEED = LOAD + "import deepspeed.accelerator; deepspeed.accelerator.get_accelerator()"


@pytest.mark.nightly
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("asked", [False, True])
def test_deepspeed_is_silent_on_stdout_and_altogether_where_nobody_asked_for_it(asked: bool) -> None:
    wants = "import finetune.train.parallel.zero\n" if asked else ""
    run = subprocess.run(
        [sys.executable, "-c", wants + LOAD_DEEPSPEED], capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
    assert asked or ("DeepSpeed" not in run.stderr and "accelerator" not in run.stderr)


@pytest.mark.parametrize("command", [["explain"], ["--help"], ["docs", "E207"]])
def test_a_reader_that_goes_away_is_no_error(command: list[str]) -> None:
    """As behind `| head -1`: exit 0, and not a word."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *command],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
