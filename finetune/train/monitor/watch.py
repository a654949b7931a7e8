"""What a person should be told about the loss: that it jumped, or that it is too good to be true. Each once."""

from collections import deque
from math import isfinite
from statistics import median

WINDOW = 50  # steps a loss is compared with
ENOUGH = 10  # steps before anything is compared: the first ones fall steeply
NEAR_ZERO = 1e-3  # nats per token: the model is certain of every word
DEVIATIONS = 8  # robust standard deviations above the median
MAD_TO_SIGMA = 1.4826  # of a normal distribution


class LossWatch:
    """Looks at each step's loss, in order."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._told: set[str] = set()

    def look(self, step: int, loss: float) -> str | None:
        """A warning the first time that something is odd, else None."""
        found = self._spike(step, loss) or self._near_zero(step, loss)
        if isfinite(loss):
            self._recent.append(loss)
        if found is None or found[0] in self._told:
            return None
        self._told.add(found[0])
        return found[1]

    def _spike(self, step: int, loss: float) -> tuple[str, str] | None:
        if len(self._recent) < ENOUGH or not isfinite(loss):
            return None
        usual = median(self._recent)
        spread = MAD_TO_SIGMA * median(abs(value - usual) for value in self._recent)
        if loss <= 2 * usual or loss <= usual + DEVIATIONS * spread or loss <= usual + 0.5:
            return None
        advice = "look at the data of this step, or lower learning_rate if it happens again (told once)"
        return "spike", f"the loss jumped to {loss:.3g} at step {step}, from about {usual:.3g}; {advice}"

    def _near_zero(self, step: int, loss: float) -> tuple[str, str] | None:
        if loss >= NEAR_ZERO or not isfinite(loss):
            return None
        advice = "answers learnt by heart, or given away by their prompts? See the conversations in report.html"
        return "zero", f"the loss is {loss:.2g} at step {step}, suspiciously near 0: {advice} (told once)"
