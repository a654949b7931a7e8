"""Libraries that are loaded say nothing on stdout, where results stand."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

LOAD = """
import finetune.export.merge, finetune.infer.load, finetune.train.session
"""
LOAD_DEEPSPEED = LOAD + "import deepspeed.accelerator; deepspeed.accelerator.get_accelerator()"


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("asked", [False, True])
def test_deepspeed_is_silent_on_stdout_and_altogether_where_nobody_asked_for_it(asked: bool) -> None:
    wants = "import finetune.train.parallel.zero\n" if asked else ""
    run = subprocess.run(
        [sys.executable, "-c", wants + LOAD_DEEPSPEED], capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
    assert asked or ("DeepSpeed" not in run.stderr and "accelerator" not in run.stderr)
