"""How each tool is started, and where it says what it did."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmark.model import VIRTUAL_TOKENS
from scripts.benchmark.recorder import STEPS_FILE, Job
from scripts.benchmark.work import LEARNING_RATE, Work

OURS = "finetune"


@dataclass(frozen=True, slots=True)
class Tool:
    """A peer: the module of this package that runs it, by which Python, with which flags.

    exact: on the copy of the model in float32.
    """

    name: str
    how: str
    module: str
    flags: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    exact: bool = False

    def command(self, work: Work, output: Path, *, check: bool = False) -> list[str]:
        job = Job(
            model=str(work.exact_model if check or self.exact else work.model),
            adapter=None if work.adapter is None else str(work.adapter),
            virtual_tokens=VIRTUAL_TOKENS if work.method == "p-tuning" else None,
            rows=str(work.rows),
            messages=str(work.messages),
            output=str(output),
            device=work.wanted.device,
            steps=work.wanted.steps,
            batch=work.wanted.batch,
            max_length=work.wanted.max_length,
            learning_rate=LEARNING_RATE,
            check=check,
            flags=dict(self.flags),
        )
        path = output.with_suffix(".json")
        path.write_text(json.dumps(asdict(job)))
        return [self.python, "-m", f"scripts.benchmark.{self.module}", str(path)]

    def steps_file(self, output: Path) -> Path:
        return output / STEPS_FILE


@dataclass(frozen=True, slots=True)
class Ours:
    """`finetune train` itself, as a user runs it; `overrides` are `--set`."""

    name: str = OURS
    how: str = "finetune train"
    overrides: tuple[str, ...] = ()

    def command(self, work: Work, output: Path) -> list[str]:
        settings = (f"training_args.output_dir={output}", *self.overrides)
        options = [word for setting in settings for word in ("--set", setting)]
        train = ["train", str(work.shared), str(work.model), str(work.yaml)]
        return [sys.executable, "-m", "finetune", *train, *options]

    def steps_file(self, output: Path) -> Path:
        return output / "metrics.jsonl"


TRAINER = Tool("Trainer + peft", "defaults", "plain")
TRL = Tool("TRL", "defaults", "trl_sft")
# A packed row holds as many tokens as several steps: twice through, so that there are enough to time.
TRL_PACKED = Tool(
    "TRL, packed",
    "packing bfd, 1,024 per row, no gradient checkpointing",
    "trl_sft",
    {
        "packing": True,
        "per_device_train_batch_size": 1,
        "gradient_checkpointing": False,
        "max_steps": -1,
        "num_train_epochs": 2,
    },
)


def llamafactory(venv: Path) -> Tool:
    return Tool("LLaMA-Factory", "bf16", "llamafactory", python=str(venv / "bin" / "python"))


def swift(venv: Path) -> Tool:
    return Tool("ms-swift", "defaults", "swift_sft", python=str(venv / "bin" / "python"))
