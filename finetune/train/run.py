"""The story of a run: read what was asked, prepare what is cheap, train, leave a folder that tells it all."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune import log, world
from finetune.config.library_options import unfinished_warmup
from finetune.config.load import load_config, recorded_config
from finetune.config.permissions import Permissions
from finetune.config.schema import Config
from finetune.data.dataset import Examples
from finetune.data.preview import preview
from finetune.disk import encoded, write_atomically
from finetune.errors import ConfigError, DataError, StorageError
from finetune.folder import REJECTED_FILE, RUN_FILE, read_run
from finetune.report import write_report
from finetune.startup import loading
from finetune.train.checkpoint.lock import run_lock
from finetune.train.checkpoint.resume import choose_resume, make_way
from finetune.train.monitor.trackers import require_trackers
from finetune.train.parallel import group
from finetune.train.prepare import Prepared, prepare
from finetune.train.record import RunRecord
from finetune.train.signals import StopSignals


def train(
    data_dir: str | Path,
    model: str | Path,
    config: str | Path | Mapping[str, Any],
    resume: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Fine-tune `model` on the files of `data_dir` as `config` says; returns the run folder.

    `config`: a YAML file, or a map of its keys. `resume`: None (a fresh folder), `yes`, `no`, a step or a
    checkpoint folder. `overrides`: `key=value` each.
    Raises a FinetuneError; its exit code is the command's.
    """
    return run(load_config(config, overrides, data_dir=data_dir), Path(data_dir), str(model), resume)


def rerun(output: Path, new_output: Path, permissions: Permissions = Permissions()) -> Path:
    """Train once more what `output`/run.json describes, into `new_output`; DataError if the data changed.

    What the record allows does not count: `permissions` are those of this command.
    """
    described = read_run(output, "config", "data_dir", "model", "data")
    config, refused = described_config(output, new_output, permissions)
    for line in refused:
        log.info(line)
    return run(config, Path(described["data_dir"]), described["model"], None, data=described["data"])


def described_config(
    output: Path, new_output: Path, permissions: Permissions = Permissions()
) -> tuple[Config, list[str]]:
    """The configuration in `output`/run.json for a run into another folder; its permissions that are void."""
    recorded = read_run(output, "config")["config"]
    overrides = [f"training_args.output_dir={json.dumps(str(new_output))}"]
    return recorded_config(recorded, f"{output / RUN_FILE}: config", permissions, overrides)


def run(
    config: Config,
    data_dir: Path,
    model: str,
    resume: str | None,
    *,
    data: Sequence[dict[str, Any]] | None = None,
    profiled: bool = False,
) -> Path:
    """A run as `config` describes it. `data`: what the files must be, as an earlier run.json has them.

    `profiled`: the same run, which also tells where the time of a step goes.
    """
    arguments = config.training_args
    log.set_level(arguments.logging.log_level)
    for notice in config.notices:
        log.info(notice)
    for warning in config.warnings:
        log.warning(warning)
    _refuse_what_is_not_built(config)
    output = Path(arguments.saving.output_dir)
    if world.world_size() > 1:
        group.join(arguments.placement)
    with group.noticing_losses(), _one_run(output), StopSignals() as stop:
        checkpoint = group.decide(lambda: choose_resume(output, resume, restarted=world.restarted()))
        prepared = group.in_turn(lambda: _prepared(config, data_dir, model, data, checkpoint))
        stop.leave_before_training()
        _warn_of_warm_up(config, prepared)
        with group.together():
            if world.is_main():
                make_way(output, checkpoint)
                _write_rejected(output, prepared.examples)
        with _reported(output), _record(prepared, output, data_dir, model, checkpoint) as record:
            # torch and transformers: seconds that a mistake in the data need not wait for.
            with loading():
                from finetune.train.session import train_model

            train_model(prepared, model, output, checkpoint, record, stop, profiled=profiled)
    return output


@contextmanager
def _one_run(output: Path) -> Iterator[None]:
    """Hold the run's folder, in the main process, for all of them."""
    with ExitStack() as held:
        with group.together():
            if world.is_main():
                held.enter_context(run_lock(output))
        yield


def _prepared(
    config: Config,
    data_dir: Path,
    model: str,
    data: Sequence[dict[str, Any]] | None,
    checkpoint: Path | None,
) -> Prepared:
    prepared = prepare(config, data_dir, model)
    _refuse_other_data(prepared, data)
    return prepared if checkpoint is None else prepared.continuing(checkpoint)


@contextmanager
def _reported(output: Path) -> Iterator[None]:
    """Write report.html when the run ends, however it ends."""
    try:
        yield
    except BaseException:
        # What ended the run is what must be told, not that the page about it could not be written either.
        with suppress(StorageError, MemoryError):
            _write_report(output)
        raise
    _write_report(output)


def _write_report(output: Path) -> None:
    if world.is_main():
        write_report(output)


def _warn_of_warm_up(config: Config, prepared: Prepared) -> None:
    """Where the data decide how many steps there are; `max_steps` is compared when the YAML is read."""
    schedule, steps = config.training_args.schedule, prepared.total_steps
    if schedule.max_steps == -1 and schedule.warmup_steps >= max(1, steps):
        place = config.origins.get("training_args.warmup_steps", "")
        log.warning(f"{place}: training_args.warmup_steps: {unfinished_warmup(steps)}")


def _refuse_what_is_not_built(config: Config) -> None:
    require_trackers(config.training_args.logging.report_to)
    if config.run.auto_fit and world.world_size() > 1:
        raise ConfigError(
            f"run.auto_fit: works with one process, there are {world.world_size()}; "
            "set run.tokens_per_micro_batch to what fits"
        )
    if config.run.master_weights != "float32" and world.world_size() > 1:
        raise ConfigError(
            f"run.master_weights: {config.run.master_weights} works with one process, there are "
            f"{world.world_size()}; share float32 weights out with training_args.deepspeed or fsdp instead"
        )


def _refuse_other_data(prepared: Prepared, data: Sequence[dict[str, Any]] | None) -> None:
    # In the order of the same configuration: a path may be spelt otherwise, from another working folder.
    for before, account in zip(data or (), prepared.accounts(), strict=False):
        for what, key in (("has", "sha256"), ("one of its pictures has", "pictures_sha256")):
            if before.get(key) != account.get(key):
                raise DataError(f"{account['file']}: {what} changed since the run that is to be repeated")


def _write_rejected(output: Path, examples: Examples) -> None:
    """The records that were skipped, with their reasons (`on_bad_record: skip`)."""
    if examples.rejected:
        lines = "".join(f"{problem.as_json()}\n" for problem in examples.rejected)
        write_atomically(output / REJECTED_FILE, encoded(lines))
        log.warning(f"{len(examples.rejected)} records were skipped: {output / REJECTED_FILE}")


def _record(prepared: Prepared, output: Path, data_dir: Path, model: str, checkpoint: Path | None) -> RunRecord:
    earlier = read_run(output) if checkpoint is not None and (output / RUN_FILE).exists() else {}
    return RunRecord(
        output,
        command=sys.argv,
        config=prepared.config.as_yaml(),
        origins=dict(prepared.config.origins),
        model=str(Path(model).resolve()) if Path(model).is_dir() else model,
        data_dir=str(data_dir.resolve()),
        data=prepared.accounts(),
        preview=preview(prepared.examples, prepared.template),
        seed=prepared.config.training_args.batches.seed,
        before=earlier.get("before"),
        resumed_from=None if checkpoint is None else checkpoint.name,
    )
