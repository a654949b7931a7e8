"""Signals in every phase of a real run: it stops in order, or at once where asked twice, and loses nothing."""

import itertools
import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.faults.runs import OFTEN, PHASES, Child, Run, assert_same_end, at_call
from tests.tiers import NIGHTLY, by_tier
from tests.train.conftest import LORA, Configure

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
UNHANDLED = {signal.SIGTERM: -15, signal.SIGINT: 130, signal.SIGUSR1: -10}
"""How Python ends where a signal comes before the run listens."""

TOO_LATE = ("in the last save", "in the evaluation on test_file")
"""Phases behind the last step: the run ends as it would have."""


def send(*numbers: int) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


@pytest.fixture
def straight(undisturbed: Callable[[str], Run]) -> Run:
    """A run that nothing happened to."""
    return undisturbed("lora")


@pytest.fixture
def stopped(small: Path, data: Path, configure: Configure) -> Run:
    """The same run, to be stopped; not yet started."""
    return Run(data, small, configure(LORA, "stopped", **OFTEN), data.parent / "stopped")


def time_of(run: Run) -> float:
    """Seconds that it takes when nothing happens to it."""
    seconds = run.to_the_end("no").seconds
    shutil.rmtree(run.output)
    return seconds


def assert_goes_on(child: Child, stopped: Run, straight: Run) -> None:
    """From where it says that it stopped, to the same end."""
    assert "Traceback" not in child.said, child.said[-3000:]
    saved = re.search(r"after step (\d+), which is saved as (.*); the same command with RESUME yes", child.said)
    again = stopped.to_the_end()
    if saved:
        assert saved[2].endswith(f"checkpoint-{saved[1]}")
        assert f"going on from {saved[2]}\n" in again.said
    assert_same_end(stopped.output, straight.output)
    shutil.rmtree(stopped.output)


@pytest.mark.parametrize(
    ("number", "phase"),
    by_tier(
        itertools.product(SIGNALS, PHASES),
        [
            (signal.SIGTERM, "while data is encoded"),
            (signal.SIGTERM, "in a step"),
            (signal.SIGTERM, "in a save"),
            (signal.SIGTERM, "in the last save"),
            (signal.SIGINT, "in an evaluation"),
            (signal.SIGUSR1, "in a step"),
        ],
    ),
)
def test_a_signal_in_any_phase_stops_a_run_that_goes_on_to_the_same_end(
    number: signal.Signals, phase: str, straight: Run, stopped: Run
) -> None:
    code = 0 if phase in TOO_LATE else 75
    child = stopped.start(prepare=at_call(*PHASES[phase], send(number)))
    assert child.wait() == code, child.said[-3000:]
    assert f"{number.name}: this step is finished and saved first" in child.said
    assert ("RESUME yes" in child.said) == (code == 75)
    early = phase in ("while data is encoded", "while the model is loaded")
    assert (f"stopped by {number.name} before training" in child.said) == early
    assert ("after step" in child.said) == (code == 75 and not early)
    assert_goes_on(child, stopped, straight)


@NIGHTLY
def test_a_signal_at_any_instant_stops_a_run_that_goes_on_to_the_same_end(straight: Run, stopped: Run) -> None:
    chance, whole, codes = random.Random(1), time_of(stopped), Counter[int]()
    for number in SIGNALS * 4:
        child = stopped.start()
        code = child.signal_after(chance.uniform(0, whole), number)
        assert code in (75, 0, UNHANDLED[number]), f"ended with {code}:\n{child.said[-3000:]}"
        assert code != UNHANDLED[number] or "saved first" not in child.said, "it had begun to listen"
        codes[code] += 1
        assert_goes_on(child, stopped, straight)
    print(f"{codes.total()} signals at random instants; exit codes {dict(codes)}")
    assert codes[75] > 2


def test_a_second_signal_leaves_at_once_however_long_an_operation_of_torch_takes(
    straight: Run, stopped: Run
) -> None:
    def compute() -> None:
        """Minutes, or many seconds, within which Python runs nothing in this thread."""
        torch.linalg.matrix_power(torch.zeros(3000, 3000), 2**62)

    child = stopped.start(prepare=at_call("finetune.train.loop", "collate", 5, compute)).saying("HERE")
    time.sleep(0.2)
    child.signal(signal.SIGTERM)
    child.saying("SIGTERM: this step is finished and saved first", seconds=2)
    second = time.monotonic()
    child.signal(signal.SIGTERM)
    assert child.wait() == 130
    waited = time.monotonic() - second
    print(f"left {1000 * waited:.0f} ms after the second SIGTERM")
    assert waited < 1.5
    assert_goes_on(child, stopped, straight)


@pytest.mark.parametrize(
    "phase",
    by_tier(["while data is encoded", "in an evaluation", "in a save", "in the last save"], ["in a save"]),
)
def test_a_second_signal_in_any_phase_leaves_and_the_run_goes_on_to_the_same_end(
    phase: str, straight: Run, stopped: Run
) -> None:
    child = stopped.start(prepare=at_call(*PHASES[phase], send(signal.SIGTERM, signal.SIGINT)))
    assert child.wait() == 130
    assert "leaving at once; continue with RESUME yes" in child.said
    assert_goes_on(child, stopped, straight)


@NIGHTLY
def test_two_signals_at_any_instants_harm_nothing(straight: Run, stopped: Run) -> None:
    chance, whole, codes = random.Random(2), time_of(stopped), Counter[int]()
    for _ in range(8):
        child = stopped.start()
        time.sleep(chance.uniform(0, whole))
        child.signal(signal.SIGTERM)
        time.sleep(chance.uniform(0, 0.03))
        child.signal(signal.SIGTERM)
        code = child.wait()
        assert code in (130, 75, 0, -15), f"ended with {code}:\n{child.said[-3000:]}"
        codes[code] += 1
        assert_goes_on(child, stopped, straight)
    print(f"{codes.total()} pairs of SIGTERM; exit codes {dict(codes)}")
    assert codes[130] + codes[75]
