"""Signals ask for an end; a second one means at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from finetune.train.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_asks_and_does_not_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested == number.name
    assert signal.getsignal(number) is before


def test_a_thread_trains_without_catching_signals() -> None:
    seen = []

    def train() -> None:
        with StopSignals() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ("SIGTERM SIGTERM", 130),
        ("SIGINT SIGINT", 130),
        ("SIGUSR1 SIGINT", 130),
        ("SIGUSR1 SIGUSR1", 75),
        ("SIGINT SIGUSR1", 75),
    ],
)
def test_a_second_signal_leaves_at_once(signals: str, code: int) -> None:
    program = (
        "import os, signal, sys\n"
        "from finetune.train.signals import StopSignals\n"
        "try:\n"
        "    with StopSignals():\n"
        "        [os.kill(os.getpid(), signal.Signals[name]) for name in sys.argv[1].split()]\n"
        "finally:\n"
        "    sys.exit(75)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, signals], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert f"{signals.split()[0]}: this step is finished and saved first" in done.stderr
    assert ("leaving at once" in done.stderr) == (code == 130)


def test_a_signal_to_a_forked_child_is_not_heard_by_its_parent() -> None:
    with StopSignals() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.kill(os.getpid(), signal.SIGUSR1)  # comes after whatever the child had sent
        assert stop.requested == "SIGUSR1"
