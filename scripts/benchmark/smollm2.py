"""A real model, stored in bfloat16, on a CPU: training as it is and in float32, and how soon it answers.

python -m scripts.benchmark.smollm2 MODEL ROWS NEW_TOKENS   answers, in a process of its own
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.demo.real_things import base_model
from scripts.benchmark.corpus import write_corpus
from scripts.benchmark.harness import ROOT, in_turns
from scripts.benchmark.limit import flops, peak
from scripts.benchmark.table import as_markdown, summarise
from scripts.benchmark.tools import TRAINER, TRL, Ours, Tool
from scripts.benchmark.work import SHORT, Wanted, Work, work_on

_R = 16
_NEW_TOKENS = 48
_PEERS_AT_DEFAULTS = 3
"""Steps that are enough of a peer that is slow in bfloat16: two warm up."""

OURS_WIDE = Ours("finetune, float32", "model_config.dtype: float32", ("model_config.dtype=float32",))
TRAINER_WIDE = Tool("Trainer + peft, float32", "the model loaded in float32", "plain", exact=True)
TRL_WIDE = Tool("TRL, float32", "the model loaded in float32", "trl_sft", {"bf16": False}, exact=True)


def measure(asked: Namespace, wanted: Wanted, shared: Path) -> Iterator[str]:
    """The lines to print: the table of training, the limit, the answers."""
    work = make_work(wanted, base_model(asked.model), shared)
    tokens = sum(length for _, length in work.lengths)
    supervised = sum(learnt for learnt, _ in work.lengths)
    yield (
        f"{processor()}, {asked.threads} threads; SmolLM2-135M, stored in bfloat16, LoRA r {_R} on all linear "
        f"layers; {wanted.steps} steps of {wanted.batch}: {tokens:,} tokens, {supervised:,} supervised"
    )
    limit = _limit(wanted, tokens // wanted.steps, supervised // wanted.steps, asked.cpu_time)
    slow = {"max_steps": min(wanted.steps, _PEERS_AT_DEFAULTS)}
    tools: list[Tool | Ours] = [Ours(), OURS_WIDE, TRAINER_WIDE, TRL_WIDE]
    tools += [Tool(tool.name, tool.how, tool.module, slow) for tool in (TRAINER, TRL)]
    outcomes = list(in_turns(tools, work, asked.rounds, cpu_time=asked.cpu_time))
    per_token = flops(wanted.shape, work.lengths, "lora") / tokens
    lines = summarise(outcomes, {tool.name: tool.how for tool in tools}, {}, per_token, max(limit.values()))
    yield as_markdown(lines)
    for dtype, rate in limit.items():
        yield f"products in {dtype}: {rate / 1e9:.1f} GFLOP/s, {rate / per_token:,.0f} tokens/s at most"
    yield from _answers(work, asked.rounds)


def make_work(wanted: Wanted, model: Path, shared: Path) -> Work:
    """The folder of all tools, on a real model: as it is stored, its copy in float32, an adapter, the rows."""
    for name in ("model", "model-fp32", "lora"):
        shutil.rmtree(shared / name, ignore_errors=True)
    shutil.copytree(model, shared / "model")
    base: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    base.save_pretrained(shared / "model-fp32")
    AutoTokenizer.from_pretrained(model).save_pretrained(shared / "model-fp32")
    torch.manual_seed(0)
    config = LoraConfig(r=_R, lora_alpha=2 * _R, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.peft_config["default"].base_model_name_or_path = str(shared / "model")
    adapted.save_pretrained(str(shared / "lora" / "adapter"))
    data = wanted.data or write_corpus(shared / "made-up.jsonl", max(200, wanted.steps * wanted.batch), SHORT)
    return work_on(wanted, shared, "lora", shared / "lora" / "adapter", data)


def processor() -> str:
    """Its name, and what torch takes it for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{name} as {torch.backends.cpu.get_cpu_capability()}"


def _limit(wanted: Wanted, tokens: int, supervised: int, cpu_time: bool) -> dict[str, float]:
    clock = time.process_time if cpu_time else time.perf_counter
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {name: peak(wanted.shape, tokens, supervised, "cpu", clock, dtype) for name, dtype in dtypes.items()}


def _answers(work: Work, rounds: int) -> Iterator[str]:
    """First token of a chat from the start of its process; new tokens a second alone and at 16 rows."""
    chat = [
        sys.executable,
        "-m",
        "finetune",
        "chat",
        str(work.model),
        "--message",
        "Name a river.",
        "--max-new-tokens",
    ]
    first = statistics.median(_seconds([*chat, "1"]) for _ in range(rounds))
    more = statistics.median(_seconds([*chat, str(_NEW_TOKENS)]) for _ in range(rounds))
    yield f"chat: {first:.1f} s from start to first token, {more:.1f} s to {_NEW_TOKENS} and the end"
    for rows in (1, 16):
        command = [
            sys.executable,
            "-m",
            "scripts.benchmark.smollm2",
            str(work.model),
            str(rows),
            str(_NEW_TOKENS),
        ]
        rates = [_rate(command) for _ in range(rounds)]
        yield f"answers, {rows} at once: {statistics.median(rates):,.1f} new tokens/s"


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began


def _rate(command: list[str]) -> float:
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return float(json.loads(done.stdout.splitlines()[-1]))


def answer(model: str, rows: int, new_tokens: int) -> float:
    """New tokens a second of so many answers at once, once a first one has chosen its kernels."""
    from finetune.data.encode import Prompt
    from finetune.infer.engine import Sampling
    from finetune.infer.load import load_engine

    engine = load_engine(model)
    prompts = [Prompt([1 + 97 * row % 1000, *range(100, 132)]) for row in range(rows)]
    engine.generate(prompts, Sampling(max_new_tokens=2), batch_size=rows)
    began = time.perf_counter()
    written = engine.generate(prompts, Sampling(max_new_tokens=new_tokens), batch_size=rows)
    return sum(len(one.ids) for one in written) / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(answer(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
