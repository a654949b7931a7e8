"""How far a run is: what a checkpoint keeps besides weights, optimizer and random state."""

from dataclasses import dataclass


@dataclass(slots=True)
class Position:
    """Counters of one run, from its first step on, over all its resumptions."""

    step: int = 0
    """Finished optimizer steps."""
    tokens: int = 0
    supervised_tokens: int = 0
    skipped: int = 0
    """Steps whose update was left out because loss or gradient was not finite."""
    best_metric: float | None = None
    """Of all evaluations so far, what early stopping compares the next one with."""
    best_metric_step: int = 0
    evaluations_without_improvement: int = 0
    """In a row, up to the last one."""
    retain_loss_before: float | None = None
    """Of `evaluation.retain_file`, of the base model."""
    retain_sha256: str | None = None
    """Of that file's content then."""
