"""python -m scripts.benchmark: make the work, ask whether all compute the same, time them in turns, print."""

import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from scripts.benchmark import smollm2
from scripts.benchmark.checks import check_all
from scripts.benchmark.generation import measure
from scripts.benchmark.harness import FailedRunError, Outcome, in_turns
from scripts.benchmark.ladder import rungs
from scripts.benchmark.limit import flops, peak
from scripts.benchmark.options import parse
from scripts.benchmark.table import Line, as_markdown, summarise
from scripts.benchmark.tools import OURS, TRAINER, TRL, TRL_PACKED, Ours, Tool, llamafactory, swift
from scripts.benchmark.work import Wanted, Work, make_works


@dataclass(frozen=True, slots=True)
class Machine:
    """FLOP/s of the model's own products, before and after the runs."""

    before: float
    after: float

    @property
    def peak(self) -> float:
        return (self.before + self.after) / 2


@dataclass(frozen=True, slots=True)
class Result:
    """All figures of one work."""

    work: str
    table: list[Line]
    runs: list[Outcome]
    machine: Machine


def main(arguments: list[str] | None = None) -> None:
    asked = parse(arguments)
    torch.set_num_threads(asked.threads)
    with _folder(asked.keep) as folder:
        os.environ |= _environment(asked, folder)
        if asked.real:
            for line in smollm2.measure(asked, _wanted(asked), folder):
                print(line, flush=True)
            return
        works = make_works(_wanted(asked), folder)
        results = [result for work in works if (result := _measured(asked, work)) is not None]
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


def _measured(asked: Namespace, work: Work) -> Result | None:
    """A work's table, printed; None for generation, and where our own run failed."""
    print(f"\n{_describe(asked, work)}", flush=True)
    if asked.generate:
        print("\n".join(measure(work, asked.rounds, cpu_time=asked.cpu_time)))
        return None
    try:
        return _compared(asked, work)
    except FailedRunError as error:
        if len(asked.methods) == 1:
            raise SystemExit(f"{OURS}: {error}") from error
        print(f"{OURS}: {error}", flush=True)
        return None


def _compared(asked: Namespace, work: Work) -> Result:
    peers = [] if asked.ladder else _peers(asked)
    tools: list[Tool | Ours] = list(rungs()) if asked.ladder else [Ours(), *peers]
    agreements = {} if asked.no_check else check_all(peers, work)
    before = _peak(asked, work)
    outcomes = list(_told(in_turns(tools, work, asked.rounds, cpu_time=asked.cpu_time)))
    machine = Machine(before, _peak(asked, work))
    hows = {tool.name: tool.how for tool in tools}
    lines = summarise(outcomes, hows, agreements, _flops_per_token(work), machine.peak)
    print(f"\n{as_markdown(lines)}\n\n{_limit(machine, work)}", flush=True)
    return Result(_describe(asked, work), lines, outcomes, machine)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)


def _environment(asked: Namespace, folder: Path) -> dict[str, str]:
    """The same for all processes. Caches are the work's own: none finds what another day encoded."""
    return {
        "OMP_NUM_THREADS": str(asked.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HOME": str(folder / "cache" / "hub"),
        "HF_HUB_OFFLINE": "1",
    }


def _wanted(asked: Namespace) -> Wanted:
    return Wanted(
        asked.shape, asked.methods, asked.device, asked.steps, asked.batch, asked.max_length, asked.data
    )


def _peers(asked: Namespace) -> list[Tool]:
    peers = [TRAINER, TRL_PACKED] if asked.quick else [TRAINER, TRL, TRL_PACKED]
    peers += [llamafactory(asked.llamafactory)] if asked.llamafactory else []
    peers += [swift(asked.swift)] if asked.swift else []
    wanted = tuple(name for name in asked.tools.split(",") if name)
    for name in wanted:
        if not any(tool.name.startswith(name) for tool in peers):
            raise SystemExit(f"--tools: {name!r} begins none of {', '.join(repr(p.name) for p in peers)}")
    return [tool for tool in peers if not wanted or tool.name.startswith(wanted)]


def _told(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    for outcome in outcomes:
        print(
            f"{outcome.tool}: {outcome.tokens_per_second:,.0f} tokens/s, {outcome.start_up:.1f} s to step 1",
            flush=True,
        )
        yield outcome


def _peak(asked: Namespace, work: Work) -> float:
    tokens = sum(length for _, length in work.lengths) // work.wanted.steps
    supervised = sum(learnt for learnt, _ in work.lengths) // work.wanted.steps
    clock = time.process_time if asked.cpu_time else time.perf_counter
    return peak(work.wanted.shape, tokens, supervised, work.wanted.device, clock)


def _flops_per_token(work: Work) -> float:
    return flops(work.wanted.shape, work.lengths, work.method) / sum(length for _, length in work.lengths)


def _describe(asked: Namespace, work: Work) -> str:
    shape, lengths, wanted = work.wanted.shape, work.lengths, work.wanted
    tokens, supervised = sum(length for _, length in lengths), sum(learnt for learnt, _ in lengths)
    return (
        f"{shape.layers} layers, hidden {shape.hidden}, vocabulary {shape.vocab:,}, bf16, {work.method}; "
        f"{wanted.steps} steps of {wanted.batch} conversations: {tokens:,} tokens, {supervised:,} supervised; "
        f"{asked.threads} threads, {asked.rounds} rounds"
        + (", seconds are a processor's" if asked.cpu_time else "")
    )


def _limit(machine: Machine, work: Work) -> str:
    return (
        f"limit: the model's own products in bf16 ran at {machine.before / 1e12:.3f} TFLOP/s before and "
        f"{machine.after / 1e12:.3f} after; {_flops_per_token(work) / 1e6:.0f} MFLOP a token: "
        f"{machine.peak / _flops_per_token(work):,.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
