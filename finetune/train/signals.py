"""A signal asks the run to stop after the step at hand; a second one means at once."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from finetune import world
from finetune.errors import LeftAtOnce, Preempted
from finetune.train.parallel import group

_LEAVING = (signal.SIGTERM, signal.SIGINT)
_ASKING = (*_LEAVING, signal.SIGUSR1)


class StopSignals:
    """While entered, SIGTERM, SIGINT and SIGUSR1 set `requested` instead of ending the process.

    A second SIGTERM or SIGINT leaves with 130, without unwinding: whatever hangs may hang in a `finally` too.
    Nothing published is harmed by that. Outside the main thread no signal can be caught, and none is.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the signal that asked for the end, such as `SIGTERM`."""
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave_before_training(self) -> None:
        """Raises Preempted if a signal came, to any process, while nothing was trained that has to be saved."""
        asked = group.anywhere(self.requested)
        if asked is not None:
            raise Preempted(f"stopped by {asked} before training; RESUME yes begins where it stood")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number in _LEAVING:
            _say("leaving at once; continue with RESUME yes from the last checkpoint")
            os._exit(LeftAtOnce.exit_code)
        self.requested = signal.Signals(number).name
        _say(f"{self.requested}: this step is finished and saved first; once more leaves at once")


def _say(line: str) -> None:
    """Not through print: the signal may have interrupted one."""
    if world.is_main():
        os.write(2, f"\n{line}\n".encode())
