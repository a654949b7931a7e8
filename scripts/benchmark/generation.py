"""Answers: our engine against the plain loop over transformers' `generate`, each in a process of its own.

python -m scripts.benchmark.generation ours|plain BATCH REQUEST
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark.harness import ROOT
from scripts.benchmark.work import Work

PROMPTS = 32
_NEW_TOKENS = 64
PLAIN = "transformers' generate, batch 4, in file order"
CONTESTANTS = {"ours, batch 16": ("ours", 16), "ours, batch 4": ("ours", 4), PLAIN: ("plain", 4)}

Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class Request:
    """What both are asked; `prompts` in the order of the file."""

    model: str
    adapter: str
    prompts: Ids
    new_tokens: int
    stop_ids: list[int]
    pad_id: int
    cpu_time: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """How fast, and what."""

    tokens_per_second: float
    answers: Ids


def measure(work: Work, rounds: int, *, cpu_time: bool) -> list[str]:
    """Both in turns; the lines to print."""
    path = work.folder / "request.json"
    path.write_text(json.dumps(asdict(_request(work, cpu_time))))
    turns = [{name: _answered(*who, path) for name, who in CONTESTANTS.items()} for _ in range(rounds)]
    lines = [f"generation: {len(turns[0][PLAIN].answers)} prompts, at most {_NEW_TOKENS} new tokens, greedy"]
    return lines + [f"  {name}: {_told(name, turns)}" for name in CONTESTANTS]


def _told(name: str, turns: list[dict[str, Answered]]) -> str:
    """Speed, ratio to the plain loop, and how many answers are its (bfloat16 rounds, and batches differ)."""
    speed = statistics.median(turn[name].tokens_per_second for turn in turns)
    ratio = statistics.median(turn[name].tokens_per_second / turn[PLAIN].tokens_per_second for turn in turns)
    same = sum(a == b for a, b in zip(turns[0][name].answers, turns[0][PLAIN].answers, strict=True))
    return f"{speed:,.1f} new tokens/s, {ratio:.2f} times the plain loop, {same} answers the same"


def _request(work: Work, cpu_time: bool) -> Request:
    """The prompts of the work's first conversations: what stands before the first supervised token."""
    from finetune.chat.load import load_template

    template = load_template(str(work.model))
    rows = [json.loads(line) for line in work.rows.read_text().splitlines()[:PROMPTS]]
    prompts = [row["input_ids"][: next(i for i, t in enumerate(row["labels"]) if t != -100)] for row in rows]
    return Request(
        str(work.model),
        str(work.adapter),
        prompts,
        _NEW_TOKENS,
        list(template.stop_ids),
        template.pad_id,
        cpu_time,
    )


def _answered(who: str, batch: int, request: Path) -> Answered:
    command = [sys.executable, "-m", "scripts.benchmark.generation", who, str(batch), str(request)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return Answered(**json.loads(done.stdout.splitlines()[-1]))


def ours(request: Request, batch_size: int) -> Callable[[], Ids]:
    """The engine of `finetune eval` and `finetune generate`."""
    from finetune.data.encode import Prompt
    from finetune.infer.engine import Sampling
    from finetune.infer.load import load_engine

    engine = load_engine(request.adapter)
    sampling = Sampling(max_new_tokens=request.new_tokens)
    prompts = [Prompt(ids) for ids in request.prompts]
    return lambda: [one.ids for one in engine.generate(prompts, sampling, batch_size=batch_size)]


def plain(request: Request, batch_size: int) -> Callable[[], Ids]:
    """What upstream does: the rows in order, padded on the left, the adapter beside its base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(request.model, dtype="auto")
    base = base.to("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = PeftModel.from_pretrained(base, request.adapter).eval()
    options = {"max_new_tokens": request.new_tokens, "do_sample": False}
    special = {"eos_token_id": request.stop_ids, "pad_token_id": request.pad_id}

    def batch(prompts: Ids) -> Ids:
        widest = max(map(len, prompts))
        ids = [[request.pad_id] * (widest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (widest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        given = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        moved = {name: tensor.to(base.device) for name, tensor in given.items()}
        rows = model.generate(**moved, **options, **special)[:, widest:].tolist()
        return [_cut(row, request.stop_ids) for row in rows]

    starts = range(0, len(request.prompts), batch_size)
    batches = [request.prompts[start : start + batch_size] for start in starts]
    return lambda: [row for prompts in batches for row in batch(prompts)]


def _cut(row: list[int], stop_ids: list[int]) -> list[int]:
    """Up to and with the first stop: what follows is padding."""
    stops = (place for place, token in enumerate(row) if token in stop_ids)
    return row[: next(stops, len(row)) + 1]


def main() -> None:
    who, batch, path = sys.argv[1:]
    request = Request(**json.loads(Path(path).read_text()))
    answer = {"ours": ours, "plain": plain}[who](request, int(batch))
    clock = time.process_time if request.cpu_time else time.perf_counter
    began = clock()
    answers = answer()
    seconds = clock() - began
    print(json.dumps(asdict(Answered(sum(map(len, answers)) / seconds, answers))))


if __name__ == "__main__":
    main()
