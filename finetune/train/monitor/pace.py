"""How long training took and what it did meanwhile: the clock, and the sums between two log lines."""

import time
from collections.abc import Collection
from dataclasses import dataclass

from finetune.train.monitor.progress import Reading


@dataclass(frozen=True, slots=True)
class Work:
    """What one step took and did."""

    seconds: float
    tokens: int
    supervised: int


def rates(work: Collection[Work]) -> tuple[float, float]:
    """Tokens per second, and supervised tokens per second."""
    seconds = max(sum(one.seconds for one in work), 1e-9)
    return sum(one.tokens for one in work) / seconds, sum(one.supervised for one in work) / seconds


class Window:
    """What happened since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self.steps = 0
        self._work: list[Work] = []
        self._loss_sum = self._weight = 0.0

    def add(self, work: Work, loss: float, weight: float) -> None:
        """`loss`: the mean over tokens that count `weight` together."""
        self.steps += 1
        self._work.append(work)
        self._loss_sum += loss * weight
        self._weight += weight

    @property
    def loss(self) -> float:
        """Sum over tokens, not mean of means: a step of few tokens weighs little."""
        return self._loss_sum / self._weight if self._weight else float("nan")

    def as_line(self, reading: Reading) -> dict[str, float]:
        tokens_per_second, supervised_per_second = rates(self._work)
        return {
            "step": reading.step,
            "epoch": round(reading.epoch, 4),
            "loss": self.loss,
            "grad_norm": reading.grad_norm,
            "learning_rate": reading.learning_rate,
            "tokens": sum(work.tokens for work in self._work),
            "supervised_tokens": sum(work.supervised for work in self._work),
            "tokens_per_second": round(tokens_per_second, 2),
            "supervised_tokens_per_second": round(supervised_per_second, 2),
            "peak_memory_gb": round(reading.peak_memory_bytes / 1e9, 3),
            "seconds": round(sum(work.seconds for work in self._work), 4),
        }


class Clock:
    """Seconds of training: runs between start and stop."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self._before += time.perf_counter() - self._since
            self._since = None

    def lap(self) -> float:
        """Since the last lap, without what lay between stop and start."""
        self.stop()
        seconds, self._before = self._before, 0.0
        self.start()
        return seconds
