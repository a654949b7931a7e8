"""The live line at the foot of a terminal."""

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO, cast

from finetune import log
from finetune.printing import Beside, drawing_on
from finetune.train.monitor.progress import Reading, live_line

if TYPE_CHECKING:
    from rich.live import Live

REDRAWS_PER_SECOND = 10


class Screen:
    """One line, kept up to date between start and stop; nothing at all where stderr is no terminal."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and log.speaks("info")
        self._line: Live | None = None
        self._shown: tuple[Reading, Sequence[float]] | None = None
        self._drawn_at = 0.0

    def start(self) -> None:
        """Show the line, as it last was."""
        if not self.live or self._line is not None:
            return
        from rich.console import Console
        from rich.live import Live

        # Live stands in for sys.stderr while it runs, so that log lines scroll by above it.
        self._line = Live(
            console=Console(file=drawing_on(sys.stderr)),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        )
        self._line.start()
        sys.stderr = cast(TextIO, Beside(sys.stderr))  # until Live puts the stream back that was there before
        self._draw()

    def show(self, reading: Reading, history: Sequence[float]) -> None:
        """Draw `reading`, unless the last one was drawn a moment ago."""
        self._shown = (reading, history)
        if time.monotonic() - self._drawn_at >= 1 / REDRAWS_PER_SECOND:
            self._draw()

    def stop(self) -> None:
        """Clear the line."""
        if self._line is not None:
            self._line.stop()
            self._line = None

    def _draw(self) -> None:
        if self._line is None or self._shown is None:
            return
        from rich.text import Text

        self._drawn_at = time.monotonic()
        console = self._line.console
        # One column is left free: some terminals wrap a line that fills them.
        text = live_line(*self._shown, console.width - 1, blocks=console.encoding.startswith("utf"))
        self._line.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)
