"""`run.auto_fit`: where a micro-batch does not fit into memory, smaller ones take its place. The step stays."""

from finetune import log
from finetune.data.plan import Plan, Step
from finetune.errors import MemoryExhaustedError

SMALLEST = 16
"""Tokens of a micro-batch below which nothing is gained by halving."""


class Fit:
    """Packs steps with a token budget that is halved each time memory runs out."""

    def __init__(self, plan: Plan, *, auto: bool) -> None:
        self._plan, self._auto = plan, auto
        self.tokens = plan.tokens_per_micro_batch

    def packed(self, step: Step) -> Step:
        """The step in micro-batches of the budget as it is now."""
        return (
            step if self.tokens == self._plan.tokens_per_micro_batch else self._plan.repack(step, self.tokens)
        )

    def shrink(self, step: Step, error: MemoryExhaustedError) -> None:
        """Halve the budget; raises the error where that is not asked for or changes nothing of the step."""
        before, smaller = self.packed(step), self.tokens // 2
        while self._auto and smaller >= SMALLEST:
            if self._plan.repack(step, smaller).ranks != before.ranks:
                log.warning(f"{error}; auto_fit: {smaller} tokens per micro-batch from here on, the same steps")
                self.tokens = smaller
                return
            smaller //= 2
        raise error
