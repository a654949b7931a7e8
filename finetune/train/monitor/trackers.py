"""tensorboard, wandb, trackio, swanlab, mlflow …: the trackers of `report_to`, through accelerate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetune import world
from finetune.config.schema import Config
from finetune.errors import ConfigError, MissingLibraryError
from finetune.train.checkpoint.identity import flatten

_RUN_NAME_IS = {"wandb": "name", "trackio": "name", "swanlab": "experiment_name", "mlflow": "run_name"}
_EXTRA_OF = {
    "tensorboard": "trackers",
    "wandb": "wandb",
    "trackio": "trackio",
    "swanlab": "swanlab",
    "mlflow": "mlflow",
}

Track = Callable[[dict[str, float], int], None]


def require_trackers(names: tuple[str, ...]) -> None:
    """Raises MissingLibraryError or ConfigError for a tracker whose library is not installed."""
    for name in names:
        if name == "all" or find_spec(name) is not None:
            continue
        if name in _EXTRA_OF:
            raise MissingLibraryError(f"training_args.report_to: {name}", name, _EXTRA_OF[name])
        raise ConfigError(f"training_args.report_to: {name} needs its library: pip install {name}")


@contextmanager
def open_trackers(config: Config, folder: Path) -> Iterator[Track | None]:
    """A run in every tracker, ended with the block; None where there is none, and but for the main process.

    Settings are sent flat, as plain values.
    """
    section = config.training_args.logging
    if not section.report_to or not world.is_main():
        yield None
        return
    from accelerate import Accelerator  # with it comes torch, which a mistake in the YAML need not wait for

    accelerator = Accelerator(
        cpu=config.training_args.placement.use_cpu, log_with=list(section.report_to), project_dir=folder
    )
    name = section.run_name or Path(config.training_args.saving.output_dir).name
    options = {tracker: {key: name} for tracker, key in _RUN_NAME_IS.items() if tracker in section.report_to}
    settings: dict[str, Any] = {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in flatten(config.as_yaml()).items()
        if value is not None
    }
    accelerator.init_trackers(section.project, config=settings, init_kwargs=options)
    try:
        yield lambda values, step: accelerator.log(values, step=step)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
