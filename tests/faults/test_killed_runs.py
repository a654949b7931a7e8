"""Real runs killed by kill -9, in each phase or at random instants, and started again until they are done."""

import itertools
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.runs import METHODS, OFTEN, PHASES, Run, assert_same_end, at_call
from tests.tiers import NIGHTLY, by_tier
from tests.train.conftest import Configure


@pytest.mark.parametrize(
    ("method", "phase"),
    by_tier(
        itertools.product(METHODS, PHASES),
        [
            ("lora", "while data is encoded"),
            ("lora", "in a step"),
            ("prefix", "in an evaluation"),
            ("full", "in a save"),
            ("lora", "while an old checkpoint is removed"),
            ("lora", "in the evaluation on test_file"),
        ],
    ),
)
def test_a_run_killed_in_any_phase_ends_byte_for_byte(
    method: str,
    phase: str,
    undisturbed: Callable[[str], Run],
    small: Path,
    data: Path,
    configure: Configure,
) -> None:
    run = Run(data, small, configure(METHODS[method], "killed", **OFTEN), data.parent / "killed")
    kill = at_call(*PHASES[phase], lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert run.start(prepare=kill).wait() == -signal.SIGKILL
    again = run.to_the_end()
    begun = phase not in ("while data is encoded", "while the model is loaded")
    assert ("going on from" in again.said) == begun
    assert_same_end(run.output, undisturbed(method).output)


def kill_until(kills: int, run: Run, expected: Run, chance: random.Random) -> Counter[str]:
    """Kill until so many kills have hit; every run that ends in between ends as `expected` did.

    The instants lie anywhere in the time that an undisturbed run takes: while it encodes, loads, trains,
    evaluates, saves, writes its last page.
    """
    whole = expected.to_the_end("no").seconds
    seen = Counter[str]()
    while seen["kills"] < kills:
        child = run.start()
        code = child.kill_after(chance.uniform(0, whole))
        assert code in (0, -9), f"ended with {code}:\n{child.said[-5000:]}"
        seen["kills"] += code == -9
        seen["in a save"] += code == -9 and any(run.output.glob("tmp-*"))
        seen["starts from a checkpoint"] += "going on from" in child.said
        if code == 0:
            seen["ends"] += _end(run, expected)
    run.to_the_end()
    seen["ends"] += _end(run, expected)
    return seen


def _end(run: Run, expected: Run) -> int:
    assert_same_end(run.output, expected.output)
    shutil.rmtree(run.output)
    return 1


def kill_all_methods(kills: int, small: Path, data: Path, configure: Configure) -> None:
    chance, total = random.Random(0), Counter[str]()
    for name, peft in METHODS.items():
        straight, killed = (
            Run(data, small, configure(peft, f"{name}-{kind}", **OFTEN), data.parent / f"{name}-{kind}")
            for kind in ("straight", "killed")
        )
        seen = kill_until(-(-kills // len(METHODS)), killed, straight.finished(), chance)
        assert seen["starts from a checkpoint"] > seen["kills"] // 10, "kills so early prove little"
        total += seen
        print(f"{name}: {dict(seen)}")
    print(f"living runs killed, every end byte-equal: {dict(total)}")


@NIGHTLY
def test_a_real_run_killed_at_random_instants_ends_byte_for_byte(
    small: Path, data: Path, configure: Configure
) -> None:
    kill_all_methods(60, small, data, configure)


@pytest.mark.long
def test_a_thousand_kills_of_real_runs_change_not_a_byte(small: Path, data: Path, configure: Configure) -> None:
    kill_all_methods(1000, small, data, configure)
