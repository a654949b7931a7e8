"""The `training_args` that decide what a run leaves behind: checkpoints, and what it says."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from finetune.config.section import Count, Section, Steps

Tracker = Literal[
    "all", "tensorboard", "wandb", "trackio", "swanlab", "mlflow", "comet_ml", "clearml", "dvclive"
]


def _home_expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


class Saving(Section):
    """When checkpoints are written, which are kept, and which is best."""

    output_dir: Annotated[str, Field(min_length=1), AfterValidator(_home_expanded)] = "trainer_output"
    """The run folder."""

    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    """Every save_steps, every epoch, after an evaluation better than all before, or (no) at the end only."""

    save_steps: Steps = 500
    """Steps between checkpoints; below 1 a share of all steps."""

    save_total_limit: Count | None = None
    """Checkpoints kept; the oldest go first, the best one stays."""

    save_only_model: bool = False
    """Leave out the optimizer: smaller checkpoints, from which training cannot be resumed."""

    load_best_model_at_end: bool = False
    """Let the best checkpoint be the result, not the last."""

    metric_for_best_model: str | None = None
    """`loss`, a score such as `rouge-l`, of one validation file `loss/NAME`; null: loss, if one is needed."""

    greater_is_better: bool | None = None
    """Null: true unless the metric is a loss."""

    @property
    def best_metric(self) -> str | None:
        """The metric as evaluation logs it, such as `eval_loss`; None where no best checkpoint is asked for."""
        asked = self.load_best_model_at_end or self.save_strategy == "best"
        name = self.metric_for_best_model or ("loss" if asked else None)
        return None if name is None else f"eval_{name.removeprefix('eval_')}"

    @property
    def watched_metric(self) -> str:
        """The metric that early stopping looks at, best checkpoint or not."""
        return self.best_metric or "eval_loss"

    @property
    def higher_is_best(self) -> bool:
        """Whether of two values of `watched_metric` the higher one is better."""
        if self.greater_is_better is None:
            return not self.watched_metric.partition("/")[0].endswith("loss")
        return self.greater_is_better


def _tracker_names(value: Any) -> Any:
    if value is None or value in ("none", ["none"]):
        return []
    return [value] if isinstance(value, str) else value


_TrackersAsWritten = Tracker | Literal["none"] | list[Tracker] | list[Literal["none"]] | None


class Logging(Section):
    """What is said while training, and to whom."""

    logging_strategy: Literal["no", "steps", "epoch"] = "steps"
    """When a line is logged."""

    logging_steps: Steps = 500
    """Steps between two logged lines; below 1 a share of all steps."""

    logging_first_step: bool = False
    """Log step 1 too."""

    report_to: Annotated[
        tuple[Tracker, ...],
        Field(strict=False),
        BeforeValidator(_tracker_names, json_schema_input_type=_TrackersAsWritten),
    ] = ()
    """Trackers that also receive what is logged: a name, a list, `none`, or `all` that are installed."""

    run_name: str | None = None
    """The run's name in a tracker; null: output_dir."""

    project: str = "huggingface"
    """The project's name in a tracker that has projects."""

    log_level: Literal["debug", "detail", "info", "warning", "error", "critical", "passive"] = "passive"
    """Say nothing below this level; `passive` is info."""
