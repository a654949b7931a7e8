"""docs/real.md, measured now: python -m tests.real > docs/real.md. Some 20 minutes on two quiet cores."""

import argparse
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from finetune.demo.real_things import BFCL, SMOLLM2
from tests.real import measure

_MARKS = {
    "parsed": "a call at all",
    "name": "the right function",
    "arguments": "equal to the one reference",
    "accepted": "accepted by the leaderboard (AST match)",
}


def main() -> None:
    given = argparse.ArgumentParser(prog="python -m tests.real", description=__doc__)
    given.add_argument("--steps", type=int, default=16, help="of the comparison with TRL")
    steps = given.parse_args().steps
    with TemporaryDirectory(prefix="finetune-real-") as work:
        for line in page(Path(work), steps):
            print(line, flush=True)


def page(work: Path, steps: int) -> Iterator[str]:
    yield "# On a real model and real data"
    yield ""
    yield f"Written by `python -m tests.real > docs/real.md` on {datetime.now(UTC):%d %B %Y}, {processor()}."
    yield f"{SMOLLM2.described()}; {BFCL.described()}."
    yield from _demo(measure.demo(work / "demo"))
    (work / "resume").mkdir()
    at, equal = measure.resumed_equals_straight(work / "resume", 4)
    yield ""
    yield f"Killed (-9) after step {at} and resumed: adapter, optimizer and random state after step 4 are"
    yield f"{'byte-equal to' if equal else '**not** those of'} the run that nothing happened to."
    (work / "trl").mkdir()
    yield from _trl(measure.against_trl(work / "trl", steps, asked=60), steps)


def _demo(demo: measure.Demo) -> Iterator[str]:
    yield ""
    yield "## `finetune demo --real`"
    yield ""
    yield "LoRA r 16 on all linear layers, 44 steps of 4 rows of live_simple and live_multiple; asked:"
    yield f"the first {demo.tuned['turns']} rows of simple_python. {demo.seconds:.0f} s,"
    yield f"{demo.processor_seconds:.0f} s of a processor, with model and data fetched before."
    yield ""
    yield "| calls, % | base | tuned |"
    yield "|---|---|---|"
    for mark, title in _MARKS.items():
        base, tuned = demo.share(mark)
        yield f"| {title} | {base:.1f} | {tuned:.1f} |"
    yield ""
    yield f"Merged into the bfloat16 base: KL divergence {demo.kl:.1e} nats, the same most likely token at"
    yield f"{demo.top_1:.2f} % of positions."


def _trl(both: measure.AgainstTRL, steps: int) -> Iterator[str]:
    yield ""
    yield "## The same rows by TRL"
    yield ""
    yield f"{steps} steps of {measure.BATCH} rows in one order, the same first adapter, float32, no dropout,"
    yield f"cosine from {measure.RATE:g}: the losses differ by at most {both.difference:.1e}."
    yield ""
    yield "| step | ours | TRL |"
    yield "|---|---|---|"
    for step, (ours, theirs) in enumerate(zip(both.ours, both.theirs, strict=True), 1):
        yield f"| {step} | {ours:.4f} | {theirs:.4f} |"
    if both.accepted is not None:
        ours, theirs = both.accepted
        yield ""
        yield f"Accepted by the leaderboard after that: {ours} (ours) and {theirs} (TRL) of {both.turns}."


def processor() -> str:
    """The processor's name and cores, and its vector instructions as torch sees them."""
    import os

    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
