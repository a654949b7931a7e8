"""Ending a run when its evaluations no longer improve: the rule of transformers' EarlyStoppingCallback.

What it remembers stands in `Position`, and so in every checkpoint: a resumed run stops where it would have.
"""

import math

from finetune.config.sections import EarlyStopping
from finetune.train.monitor.progress import short
from finetune.train.position import Position


def note_evaluation(position: Position, value: float, threshold: float, *, higher_is_best: bool) -> None:
    """Take note of an evaluation's value of the metric. One that is not finite improves nothing.

    It improves when it is better than the best before it by more than `threshold`; the best itself follows
    every better value, so that many small gains below the threshold are none together.
    """
    best = position.best_metric
    gain = math.inf if best is None else value - best if higher_is_best else best - value
    improves = math.isfinite(value) and gain > threshold
    position.evaluations_without_improvement = 0 if improves else position.evaluations_without_improvement + 1
    if math.isfinite(value) and gain > 0:
        position.best_metric, position.best_metric_step = value, position.step


def why_stop(section: EarlyStopping | None, position: Position, metric: str) -> str | None:
    """Why the run ends here; None where it goes on."""
    waited = position.evaluations_without_improvement
    if section is None or waited < section.patience:
        return None
    by = f" by more than {section.threshold:g}" if section.threshold else ""
    since = f"{metric} has not improved{by} for {waited} evaluation{'s' * (waited != 1)}"
    best = position.best_metric
    found = "" if best is None else f"; its best was {short(best)}, at step {position.best_metric_step}"
    return f"stopped early at step {position.step}: {since}{found}"
