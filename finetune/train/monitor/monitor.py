"""The one place that shows a run's progress and writes it down: the live line, metrics.jsonl, the trackers.

Numbers come in as plain floats, so that nothing here knows torch. Only the main process shows and writes.

    with Monitor(output, total_steps=3000, logging_steps=10) as monitor:
        for step in plan.steps(...):
            ...
            monitor.record(step.index + 1, loss=..., ...)
            with monitor.pause():                       # evaluating and saving are not training time
                monitor.event(step.index + 1, evaluate(...))
"""

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Self

from finetune import log, world
from finetune.errors import StorageError
from finetune.folder import METRICS_FILE
from finetune.train.monitor.metrics_file import MetricsFile, truncate_metrics
from finetune.train.monitor.pace import Clock, Window, Work, rates
from finetune.train.monitor.progress import Reading, loss_text, plain_line
from finetune.train.monitor.screen import Screen
from finetune.train.monitor.trackers import Track
from finetune.train.monitor.watch import LossWatch

SMOOTHING = 0.9  # share of the past in the loss that the live line shows
RECENT_STEPS = 20  # over which speed and ETA are measured


class Monitor:
    """Shows and records the steps `start_step + 1 … total_steps`.

    `logging_steps`: steps between two lines of metrics.jsonl; 0: none but the last.
    `first_step`: step 1 has a line of its own. `trackers` gets every line as (values, step).
    On entering, lines beyond `start_step` are cut from metrics.jsonl: those steps will be done again.
    """

    def __init__(
        self,
        output: Path,
        *,
        total_steps: int,
        start_step: int = 0,
        logging_steps: int,
        first_step: bool = True,
        trackers: Track | None = None,
    ) -> None:
        self._total_steps, self._start_step = total_steps, start_step
        self._logging_steps, self._first_step = logging_steps, first_step
        self._speaks = world.is_main()
        self._metrics = MetricsFile(output / METRICS_FILE)
        self._trackers = trackers
        self._screen = Screen()
        self._clock = Clock()
        self._window = Window()
        self._recent: deque[Work] = deque(maxlen=RECENT_STEPS)
        self._smoothed = array("d")
        self._watch = LossWatch()
        self._latest: Reading | None = None
        self.final_loss: float | None = None
        """Of the last line written: the mean over the supervised tokens of its steps."""

    def __enter__(self) -> Self:
        if self._speaks:
            truncate_metrics(self._metrics.path, self._start_step)
            self._metrics.open()
            self._screen.start()
        self._clock.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leaves nothing unwritten, also when a signal or an error ends the run in the middle of a window.

        Disk or memory too full for it do not hide that error.
        """
        self._screen.stop()
        if self._speaks:
            with suppress(StorageError, MemoryError) if kind is not None else nullcontext():
                self._finish()

    def _finish(self) -> None:
        if self._latest is not None:
            if self._window.steps:
                self._write_line(self._latest)
            if self._screen.live:
                log.info(plain_line(self._latest))  # what stays of the line that was there
        self._metrics.close()

    def record(
        self,
        step: int,
        *,
        epoch: float,
        loss: float,
        grad_norm: float,
        learning_rate: float,
        tokens: int,
        supervised_tokens: int,
        weight: float | None = None,
        peak_memory_bytes: int,
    ) -> None:
        """Take note of a finished optimizer step; `step` counts from 1.

        `loss` is the step's mean over its supervised tokens; token counts are those of all ranks together.
        `weight`: what its supervised tokens count; None: each of them 1.
        """
        if not self._speaks:
            return
        work = Work(self._clock.lap(), tokens, supervised_tokens)
        self._recent.append(work)
        self._window.add(work, loss, supervised_tokens if weight is None else weight)
        self._smooth(loss)
        speed, supervised_speed = rates(self._recent)
        reading = Reading(
            step=step,
            total_steps=self._total_steps,
            epoch=epoch,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            tokens_per_second=speed,
            supervised_per_second=supervised_speed,
            peak_memory_bytes=peak_memory_bytes,
            seconds_left=self._seconds_left(step),
        )
        self._latest = reading
        self._tell(reading)
        self._warn(self._watch.look(step, loss))

    def event(self, step: int, scores: Mapping[str, float]) -> None:
        """Write an evaluation's scores as a line of its own; names get `eval_` in front where they lack it."""
        if not self._speaks:
            return
        named = {name if name.startswith("eval_") else f"eval_{name}": score for name, score in scores.items()}
        epoch = {"epoch": round(self._latest.epoch, 4)} if self._latest else {}
        self._publish({"step": step, **epoch, **named}, step)
        shown = "  ".join(f"{name} {loss_text(score)}" for name, score in named.items())
        log.info(f"step {step}/{self._total_steps}  {shown}")

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stop the clock, and clear the live line for whatever shows progress meanwhile."""
        self._clock.stop()
        self._screen.stop()
        try:
            yield
        finally:
            self._clock.start()
            if self._speaks:
                self._screen.start()

    def _tell(self, reading: Reading) -> None:
        if self._due(reading.step):
            self._write_line(reading)
        elif reading.step == self._start_step + 1 and not self._screen.live:
            log.info(plain_line(reading))  # that the first step was done is what everybody waits for
        self._screen.show(replace(reading, loss=self._smoothed[-1]), self._smoothed)

    def _due(self, step: int) -> bool:
        by_count = self._logging_steps > 0 and step % self._logging_steps == 0
        return by_count or (step == 1 and self._first_step) or step == self._total_steps

    def _write_line(self, reading: Reading) -> None:
        window, self._window = self._window, Window()
        line = replace(reading, loss=window.loss)
        self.final_loss = window.loss
        self._publish(window.as_line(line), line.step)
        if not self._screen.live:
            log.info(plain_line(line))

    def _publish(self, values: dict[str, float], step: int) -> None:
        self._metrics.write(values)
        if self._trackers is None:
            return
        try:
            self._trackers(values, step)
        except Exception as problem:  # a tracker's network must not cost a run its training
            self._trackers = None
            self._warn(f"the tracker failed and is not asked again ({problem}); {METRICS_FILE} goes on")

    def _smooth(self, loss: float) -> None:
        past = next((value for value in self._smoothed[-1:] if isfinite(value)), loss)
        self._smoothed.append(SMOOTHING * past + (1 - SMOOTHING) * loss if isfinite(loss) else past)

    def _seconds_left(self, step: int) -> float:
        per_step = sum(work.seconds for work in self._recent) / len(self._recent)
        return per_step * (self._total_steps - step)

    def _warn(self, message: str | None) -> None:
        if message is not None:
            log.warning(message)
