"""Real runs, each a process of its own, whose memory is compared with the estimate."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.figures import know_this_machine

ROOT = Path(__file__).parents[2]
WORDS = [f"w{number:03d}" for number in range(200)]
CORPUS = [" ".join(WORDS)] * 20
LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
METHODS: Mapping[str, Mapping[str, Any] | None] = {
    "lora": LORA,
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 64},
    "full": None,
}
MIDDLE = {
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1536,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {},
    "57 M": {"vocab_size": 32000, **MIDDLE},
    "179 M": {"vocab_size": 151552, **MIDDLE},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run. `recomputed`: all layers are, in the backward pass."""

    model: str
    method: str
    tokens: int
    precision: str = "bfloat16"
    recomputed: bool = False

    @property
    def name(self) -> str:
        again = " recomputed" if self.recomputed else ""
        return f"{self.model} {self.method} {self.tokens} {self.precision}{again}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run took at most, and what was estimated, in bytes."""

    cell: Cell
    estimated: int
    peak: int
    parts: Mapping[str, int]

    @property
    def error(self) -> float:
        """Of the estimate, relative to what was measured."""
        return self.estimated / self.peak - 1

    def row(self) -> str:
        """A line of the table."""
        cell, again = self.cell, "all layers" if self.cell.recomputed else "none"
        sizes = " | ".join(f"{size / 1e6:,.0f} MB" for size in (self.estimated, self.peak))
        what = f"{cell.model} | {cell.method} | {cell.tokens:,} | {cell.precision} | {again}"
        return f"| {what} | {sizes} | {100 * self.error:+.1f} % |"


def cells() -> list[Cell]:
    """Every combination that says something of its own."""
    tiny = [Cell("tiny", m, t, "float32") for m in METHODS for t in (512, 2048, 8192)]
    middle = [Cell("57 M", m, t) for m in METHODS for t in (512, 2048, 8192)]
    again = [Cell("57 M", m, 2048, recomputed=True) for m in ("lora", "full")]
    wide = [Cell("57 M", m, 2048, "float32") for m in ("lora", "full")]
    long = [
        Cell("57 M", "lora", 8192, recomputed=True),
        Cell("179 M", "lora", 2048),
        Cell("179 M", "full", 2048),
    ]
    return [*tiny, *middle, *again, *wide, *long]


def run_cell(cell: Cell, work: Path, steps: int = 3) -> Measured:
    """Train as a user does; run.json tells what was estimated, and what the kernel says was held at most."""
    model, data = make_model(cell, work), make_data(work)
    output = work / "runs" / cell.name.replace(" ", "-")
    config = _configure(cell, output, steps)
    command = [sys.executable, "-m", "finetune", "train", str(data), str(model), str(config), "no"]
    settings = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(_cache(work)), "OMP_NUM_THREADS": "1"}
    with (output.parent / f"{output.name}.log").open("wb") as said:
        code = subprocess.call(command, stdout=said, stderr=said, env=os.environ | settings)
    assert code == 0, Path(said.name).read_text()
    memory = json.loads((output / "run.json").read_text())["memory"]
    return Measured(cell, memory["estimated_bytes"], memory["measured_peak_bytes"], memory["parts"])


def _cache(work: Path) -> Path:
    cache = work / "cache"
    return cache if cache.exists() else know_this_machine(cache)


def make_model(cell: Cell, work: Path) -> Path:
    """A random GLM-4 of the cell's shape and precision."""
    folder = work / f"{cell.model}-{cell.precision}".replace(" ", "")
    if not folder.exists():
        shape = dict(SHAPES[cell.model])
        # In a process of its own: what torch takes here must not be the caller's.
        command = [sys.executable, "-c", _MAKE, str(folder), json.dumps(shape), cell.precision]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return folder


_MAKE = """
import json, sys
import torch
from pathlib import Path
from finetune.model.tiny import random_glm, train_tokenizer
from tests.estimate.cells import CORPUS
tokenizer = train_tokenizer(CORPUS, 1536)
dtype = getattr(torch, sys.argv[3])
model = random_glm(tokenizer, 0, json.loads(sys.argv[2])).to(dtype)
model.config.dtype = dtype
model.save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


def make_data(work: Path) -> Path:
    """Conversations of about 256 tokens, half of them supervised."""
    folder = work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "train.jsonl").open("w") as file:
        for number in range(256):
            said = [" ".join(WORDS[(number * step + k) % 200] for k in range(60)) for step in (7, 5)]
            turns = [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)
            ]
            file.write(json.dumps({"messages": turns}) + "\n")
    return folder


def _configure(cell: Cell, output: Path, steps: int) -> Path:
    arguments = {"output_dir": str(output), "max_steps": steps, "save_strategy": "no", "learning_rate": 1e-4}
    if cell.recomputed:
        arguments["gradient_checkpointing"] = True
    content: dict[str, Any] = {
        "data_config": {"train_file": "train.jsonl"},
        "model_config": {"dtype": cell.precision},  # whatever this processor is fast in
        "training_args": {**arguments, "use_cpu": True},
        "run": {"tokens_per_micro_batch": cell.tokens, "conversations_per_step": max(4, cell.tokens // 128)},
    }
    if METHODS[cell.method] is not None:
        content["peft_config"] = METHODS[cell.method]
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_suffix(".yaml")
    YAML().dump(content, path)
    return path
