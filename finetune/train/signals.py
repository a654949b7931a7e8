"""A signal asks the run to stop after the step at hand; a second one means at once.

Python calls a handler in the main thread, between two of its own instructions: not while a long operation of
torch or an exchange with other processes lasts, and two SIGTERM that come meanwhile are one to it. So a thread
listens as well: the system's own handler writes each signal into a pipe (`signal.set_wakeup_fd`).
"""

import os
import select
import signal
import threading
from collections.abc import Callable
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
        self._pipe: _Pipe | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._pipe = _Pipe(self._take)
            self._before = {number: signal.signal(number, self._receive) for number in _ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._pipe is not None:
            self._pipe.close()

    def leave_before_training(self) -> None:
        """Raises Preempted if a signal came, to any process, while nothing was trained that has to be saved."""
        asked = group.anywhere(self.requested)
        if asked is not None:
            raise Preempted(f"stopped by {asked} before training; RESUME yes begins where it stood")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._pipe is not None:
            self._pipe.empty()

    def _take(self, number: int) -> None:
        if number not in _ASKING:
            return
        if self.requested and number in _LEAVING:
            _say("leaving at once; continue with RESUME yes from the last checkpoint")
            os._exit(LeftAtOnce.exit_code)
        self.requested = signal.Signals(number).name
        _say(f"{self.requested}: this step is finished and saved first; once more leaves at once")


class _Pipe:
    """Gives each signal to `take` once, in whichever thread is first to read it. Made in the main thread."""

    open: "_Pipe | None" = None
    """The one that this process listens to; a forked child listens to none."""

    def __init__(self, take: Callable[[int], None]) -> None:
        self._take = take
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        # Of one thread again and again: a handler may interrupt itself.
        self._one_reader = threading.RLock()
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        _Pipe.open = self
        self._thread.start()

    def empty(self) -> bool:
        """Read what has come; False where nothing will come any more."""
        if _Pipe.open is not self:
            return False
        with self._one_reader:
            while True:
                try:
                    read = os.read(self._reading, 1)
                except BlockingIOError:
                    return True
                if not read:
                    return False
                self._take(read[0])

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._writing)
        self._thread.join()
        _Pipe.open = None
        os.close(self._reading)

    def _listen(self) -> None:
        while True:
            select.select([self._reading], [], [])
            if not self.empty():
                return


def _deafen_child() -> None:
    """The pipe is the parent's: what a child hears must not reach it."""
    if _Pipe.open is not None:
        _Pipe.open = None
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_deafen_child)


def _say(line: str) -> None:
    """Not through print: the signal may have interrupted one."""
    if world.is_main():
        os.write(2, f"\n{line}\n".encode())
