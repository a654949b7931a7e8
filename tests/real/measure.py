"""What docs/real.md tells, measured: the demo, a run killed and resumed, and the same training by TRL."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config.load import load_config
from finetune.demo.real import write_data
from finetune.disk import sha256_of
from finetune.train.prepare import prepare
from tests.real import things
from tests.real.trl_peer import Job

RATE, WARMUP, BATCH = 1e-3, 2, 4
ROOT = Path(__file__).parents[2]

_YAML = """\
data_config: {{train_file: train.jsonl, test_file: test.jsonl}}
max_input_length: 900
max_output_length: 128
model_config: {{chat_template: chatml-tools, dtype: float32, adapter: {adapter}}}
training_args:
  output_dir: {output}
  max_steps: {steps}
  per_device_train_batch_size: {batch}
  learning_rate: {rate}
  lr_scheduler_type: cosine
  warmup_steps: {warmup}
  logging_steps: 1
  save_steps: 2
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """`finetune demo --real`: tool calls by their marks, of base and tuned; the merge's proof; the time.

    kl: nats, of merged from base + adapter. top_1: percent of positions with the same most likely token.
    """

    base: dict[str, int]
    tuned: dict[str, int]
    kl: float
    top_1: float
    seconds: float
    processor_seconds: float

    def share(self, mark: str) -> tuple[float, float]:
        """In percent, of the base and of the tuned model."""
        base, tuned = (100 * calls[mark] / calls["turns"] for calls in (self.base, self.tuned))
        return base, tuned


def demo(folder: Path) -> Demo:
    """Run the whole demo in `folder`; model and data are fetched before, so that they cost no time in it."""
    things.smollm2(), things.bfcl()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    said = _finetune("demo", "--real", "--output", f"{folder}").stdout
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    run = json.loads((folder / "real" / "run.json").read_text())
    calls = run["before"]["tool_calls"], run["result"]["evaluation"]["tool_calls"]
    kl, top_1 = (re.search(pattern, said) for pattern in (r"KL divergence (\S+) nats", r"token at (\S+)% of"))
    assert kl and top_1, said
    return Demo(*calls, float(kl[1]), float(top_1[1]), seconds, used)


def resumed_equals_straight(folder: Path, steps: int) -> tuple[int, bool]:
    """Kill a run (-9) after its first checkpoint, and resume it: the checkpoint's step, equal bytes or not."""
    straight, killed = (make_work(folder, steps, name) for name in ("straight", "killed"))
    _finetune("train", *straight.arguments)
    child = subprocess.Popen(_command("train", *killed.arguments), start_new_session=True, env=_environment())
    while not (found := list(killed.output.glob("checkpoint-*"))) and child.poll() is None:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    _finetune("train", *killed.arguments, "yes")
    last = f"checkpoint-{steps}"
    names = ("adapter_model.safetensors", "training_state.safetensors")
    equal = [sha256_of(straight.output / last / n) == sha256_of(killed.output / last / n) for n in names]
    return int(found[0].name.rpartition("-")[2]), all(equal)


@dataclass(frozen=True, slots=True)
class AgainstTRL:
    """The same rows, steps, seed and first weights of the adapter: losses of each step, and scores."""

    ours: list[float]
    theirs: list[float]
    accepted: tuple[int, int] | None
    turns: int

    @property
    def difference(self) -> float:
        return max(abs(a - b) for a, b in zip(self.ours, self.theirs, strict=True))


def against_trl(folder: Path, steps: int, *, asked: int = 0) -> AgainstTRL:
    """Train with both, float32, no dropout; with `asked`, let both adapters answer so many test questions."""
    work = make_work(folder, steps, "ours")
    _finetune("train", *work.arguments)
    metrics = [json.loads(line) for line in (work.output / "metrics.jsonl").read_text().splitlines()]
    theirs = folder / "trl"
    job = Job(
        f"{things.smollm2()}", f"{work.adapter}", f"{work.rows()}", f"{theirs}", steps, BATCH, RATE, WARMUP
    ).write(folder / "trl.json")
    command = [sys.executable, "-m", "tests.real.trl_peer", f"{job}"]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL)
    losses = json.loads((theirs / "losses.json").read_text())
    ours = [row["loss"] for row in metrics if "loss" in row]
    if not asked:
        return AgainstTRL(ours, losses, None, 0)
    return AgainstTRL(ours, losses, (work.score(work.output, asked), work.score(theirs, asked)), asked)


@dataclass(frozen=True, slots=True)
class Work:
    """A short run on the demo's rows that begins at a given adapter."""

    data: Path
    adapter: Path
    config: Path
    output: Path

    @property
    def arguments(self) -> Sequence[str]:
        return f"{self.data}", f"{things.smollm2()}", f"{self.config}"

    def rows(self) -> Path:
        """The conversations of all steps, in the order of our plan, as token ids and labels."""
        config = load_config(self.config, [], data_dir=self.data)
        prepared = prepare(config, self.data, f"{things.smollm2()}")
        plan, examples = prepared.plan(), prepared.examples
        order = [c for step in plan.steps(0, prepared.total_steps) for c in step.conversations]
        numbers = [number for conversation in order for number in examples.examples_of(conversation)]
        path = self.config.with_suffix(".rows.jsonl")
        path.write_text("".join(json.dumps(_labelled(examples[number])) + "\n" for number in numbers))
        return path

    def score(self, adapter: Path, asked: int) -> int:
        """How many of the first `asked` test questions an adapter or run answers with an accepted call."""
        place = self.config.with_suffix(f".{adapter.name}")
        given = ("--config", f"{self.config}", "--limit", f"{asked}", "--output", f"{place}")
        _finetune("eval", f"{adapter}", f"{self.data / 'test.jsonl'}", *given)
        return int(json.loads((place / "scores.json").read_text())["tool_calls"]["accepted"])


def make_work(folder: Path, steps: int, name: str) -> Work:
    """Data, the first adapter and a YAML below `folder`; all works there share data and adapter."""
    data, adapter = write_data(folder / "data"), folder / "adapter"
    if not adapter.exists():
        _write_adapter(adapter)
    config, output = folder / f"{name}.yaml", folder / name
    text = _YAML.format(adapter=adapter, output=output, steps=steps, batch=BATCH, rate=RATE, warmup=WARMUP)
    config.write_text(text)
    return Work(data, adapter, config, output)


def _write_adapter(folder: Path) -> None:
    """LoRA on all linear layers as peft begins it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(things.smollm2(), dtype=torch.float32)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder)


def _labelled(example: Any) -> dict[str, list[int]]:
    ids = example.input_ids.tolist()
    return {"input_ids": ids, "labels": [i if m else -100 for i, m in zip(ids, example.loss_mask, strict=True)]}


def _finetune(*arguments: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(_command(*arguments), capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "finetune", *arguments]


def _environment() -> dict[str, str]:
    """The child's: our code also where it is not installed, on as many threads as there are cores."""
    return {**os.environ, "OMP_NUM_THREADS": f"{len(os.sched_getaffinity(0))}"}
