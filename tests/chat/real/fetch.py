"""Where the templates and tokenizers of others lie once pip and npm brought them: see tests/real/things.py."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from finetune.demo.fetch import real_cache
from tests.chat.real.families import PAIRS, Pair
from tests.real import things

_VLLM = "0.33.0"


def template_file(pair: Pair) -> Path:
    source, _, name = pair.name.partition("/")
    folders = {"trl": things.trl_templates, "llama.cpp": things.llama_cpp_templates, "vllm": vllm_templates}
    return folders[source]() / f"{name}.jinja"


def tokenizer_file(name: str) -> Path:
    return things.tokenizer(name) / "tokenizer.json"


def available() -> list[Pair]:
    """The pairs that can be judged here: vLLM's sources are not to be had everywhere."""
    return [pair for pair in PAIRS if template_file(pair).is_file()]


@cache
def vllm_templates() -> Path:
    """vLLM's examples. Its metadata cannot be made without a compiler, so pip ends in an error: its unpacked
    sources are enough. An empty folder where they cannot be had.
    """
    folder = real_cache() / f"vllm-{_VLLM}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix="tmp-") as work:
        options = [
            "--quiet",
            "--no-deps",
            "--no-clean",
            "--no-binary=:all:",
            "--no-build-isolation",
            "--dest",
            work,
        ]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, f"vllm=={_VLLM}"],
            env={**os.environ, "TMPDIR": work},
            capture_output=True,
            check=False,
        )
        folder.mkdir()
        for file in Path(work).glob("**/examples/*.jinja"):
            copyfile(file, folder / file.name.removeprefix("tool_chat_template_").removeprefix("template_"))
    return folder
