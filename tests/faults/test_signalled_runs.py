"""Signals in every phase of a real run: it stops in order, or at once where asked twice, and loses nothing."""

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

from tests.faults.runs import OFTEN, Child, Run, assert_same_end, at_call
from tests.train.conftest import LORA, Configure

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
UNHANDLED = {signal.SIGTERM: -15, signal.SIGINT: 130, signal.SIGUSR1: -10}
"""How Python ends where a signal comes before the run listens."""

PHASES = {
    "while data is encoded": ("finetune.train.prepare", "_encoded", 2, 75),
    "while the model is loaded": ("finetune.train.session", "make_trainee", 1, 75),
    "in a step": ("finetune.train.loop", "collate", 5, 75),
    "in an evaluation": ("finetune.train.loop.Loop", "_evaluate", 2, 75),
    "in a save": ("finetune.train.checkpoint.save", "write_state", 2, 75),
    "while an old checkpoint is removed": ("finetune.train.checkpoint.retain", "_remove", 2, 75),
    "in the last save": ("finetune.train.checkpoint.save", "write_state", 6, 0),
    "in the evaluation on test_file": ("finetune.train.session", "_test", 1, 0),
}
"""Where a signal comes: module or class, function, at which of its calls; the exit code."""


def send(*numbers: int) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in numbers] and None


@pytest.fixture
def straight(small: Path, data: Path, configure: Configure) -> Run:
    """A run that nothing happened to."""
    return Run(data, small, configure(LORA, "straight", **OFTEN), data.parent / "straight").finished()


@pytest.fixture
def stopped(small: Path, data: Path, configure: Configure) -> Run:
    """The same, to be stopped; not yet started."""
    return Run(data, small, configure(LORA, "stopped", **OFTEN), data.parent / "stopped")


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


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_any_phase_stops_a_run_that_goes_on_to_the_same_end(
    number: signal.Signals, straight: Run, stopped: Run
) -> None:
    for phase, (path, name, call, code) in PHASES.items():
        child = stopped.start(prepare=at_call(path, name, call, send(number)))
        assert child.wait() == code, f"{phase}:\n{child.said[-3000:]}"
        assert f"{number.name}: this step is finished and saved first" in child.said, phase
        assert ("RESUME yes" in child.said) == (code == 75), phase
        early = phase in ("while data is encoded", "while the model is loaded")
        assert (f"stopped by {number.name} before training" in child.said) == early, phase
        assert ("after step" in child.said) == (code == 75 and not early), phase
        assert_goes_on(child, stopped, straight)
    print(f"{number.name}: {len(PHASES)} phases")


def test_a_signal_at_any_instant_stops_a_run_that_goes_on_to_the_same_end(straight: Run, stopped: Run) -> None:
    chance, whole, codes = random.Random(1), straight.to_the_end("no").seconds, Counter[int]()
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
    "phase", ["while data is encoded", "in an evaluation", "in a save", "in the last save"]
)
def test_a_second_signal_in_any_phase_leaves_and_the_run_goes_on_to_the_same_end(
    phase: str, straight: Run, stopped: Run
) -> None:
    path, name, call, _ = PHASES[phase]
    child = stopped.start(prepare=at_call(path, name, call, send(signal.SIGTERM, signal.SIGINT)))
    assert child.wait() == 130
    assert "leaving at once; continue with RESUME yes" in child.said
    assert_goes_on(child, stopped, straight)


def test_two_signals_at_any_instants_harm_nothing(straight: Run, stopped: Run) -> None:
    chance, whole, codes = random.Random(2), straight.to_the_end("no").seconds, Counter[int]()
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
