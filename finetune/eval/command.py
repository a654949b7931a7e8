"""`finetune eval`: a model or run, a file of conversations, and a folder with what came of it."""

from collections.abc import Sequence
from pathlib import Path

from finetune import folder, log
from finetune.config.load import load_config, recorded_config
from finetune.config.permissions import Permissions
from finetune.config.schema import Config, DataConfig
from finetune.data.dataset import Sample, load_conversations
from finetune.errors import DataError
from finetune.eval.evaluate import evaluate_under
from finetune.eval.loss import reference_loss
from finetune.eval.place import SCORES_FILE, place_for, subject_of
from finetune.eval.report import Report
from finetune.folder import PREDICTIONS_FILE
from finetune.infer.hf import HFEngine
from finetune.infer.load import load_engine


def evaluate_file(
    model_or_run: str | Path,
    data_file: str | Path,
    *,
    config: str | Path | None = None,
    limit: int | None = None,
    output: str | Path | None = None,
    batch_size: int = 8,
    quantization: str | None = None,
    trust_remote_code: bool = False,
    allow_remote_images: bool = False,
    image_roots: Sequence[str] = (),
) -> Report:
    """Score the model on the file; writes predictions.jsonl and scores.json to `output`.

    `output` None: `eval/<data file>` in the run folder, or below the current folder for what is no run; where
    that is another file's, or another model's, a folder beside it (place.py).
    Without `config` a run is evaluated under its own settings, anything else under the defaults. What those
    settings allow does not count: only this command's arguments and `config` give permissions.
    """
    model_or_run, data_file = str(model_or_run), str(data_file)
    config, output = (None if path is None else Path(path) for path in (config, output))
    run = folder.resolve(model_or_run).run
    permissions = Permissions(allow_remote_images=allow_remote_images, image_roots=image_roots)
    settings = _settings(run, data_file, config, permissions)
    samples = load_conversations(settings.data_config, data_file, Path())[: limit or settings.evaluation.limit]
    with place_for(subject_of(model_or_run, data_file, quantization), output, run) as place:
        engine = load_engine(
            model_or_run,
            quantization=quantization,
            trust_remote_code=trust_remote_code,
            chat_template=_given_template(config, settings),
            options=settings.model.chat_template_kwargs if config is not None else None,
            thinking=settings.data_config.thinking,
        )
        report = _report(settings, engine, samples, data_file, batch_size, place)
        scores = {"model": model_or_run, "data": data_file, **report.as_dict()}
        folder.write_json(place / SCORES_FILE, scores)
        log.info(f"predictions: {place / PREDICTIONS_FILE}")
    return report


def _report(
    settings: Config, engine: HFEngine, samples: Sequence[Sample], data_file: str, batch_size: int, place: Path
) -> Report:
    """Scores and loss; writes the predictions."""
    report = evaluate_under(
        settings, engine, samples, batch_size=batch_size, predictions_path=place / PREDICTIONS_FILE
    )
    if not report.turns:
        reasons = "; ".join(f"{count} left out: {reason}" for reason, count in report.skipped.items())
        raise DataError(f"{data_file}: nothing to score ({reasons})")
    longest = settings.max_input_length + settings.max_output_length
    return report.with_loss(reference_loss(engine, samples, max_length=longest))


def _settings(run: Path | None, data_file: str, config: Path | None, given: Permissions) -> Config:
    if config is not None:
        return load_config(config, given.overrides())
    if run is not None:
        recorded = folder.read_run(run, "config")["config"]
        settings, refused = recorded_config(recorded, f"{run / folder.RUN_FILE}: config", given)
        for line in refused:
            log.info(line)
        return settings
    data_config = DataConfig(
        train_file=data_file,
        allow_remote_images=given.allow_remote_images,
        image_roots=tuple(given.image_roots),
    )
    return Config(data_config=data_config)


def _given_template(config: Path | None, settings: Config) -> Path | None:
    """The Jinja file of a YAML that was named; a run's own is in its checkpoints."""
    named = settings.model.chat_template
    return Path(named) if config is not None and named is not None else None
