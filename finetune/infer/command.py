"""`finetune generate`: a file of conversations in, a file of completions out."""

from pathlib import Path

from finetune.config.schema import DataConfig
from finetune.data.dataset import load_conversations
from finetune.folder import resolve
from finetune.infer.batch import generate_file
from finetune.infer.engine import Sampling
from finetune.infer.load import load_engine


def generate_answers(
    model_or_run: str,
    input_file: str,
    output_file: Path,
    *,
    sampling: Sampling,
    batch_size: int,
    quantization: str | None,
    trust_remote_code: bool,
    allow_remote_images: bool = False,
) -> int:
    """Answer the conversations of `input_file` into `output_file`; returns how many lines are new."""
    data_config = DataConfig(train_file=input_file, allow_remote_images=allow_remote_images)
    samples = load_conversations(data_config, input_file, Path())
    return generate_file(
        lambda: load_engine(model_or_run, quantization=quantization, trust_remote_code=trust_remote_code),
        samples,
        output_file,
        sampling=sampling,
        batch_size=batch_size,
        model=_author(model_or_run, quantization),
    )


def _author(model_or_run: str, quantization: str | None) -> str:
    """The weights that answer: a run's name stays the same while its best checkpoint changes."""
    source = resolve(model_or_run)
    weights = source.adapter or source.model
    name = str(weights.absolute() if isinstance(weights, Path) else weights)
    return f"{name} in {quantization}" if quantization else name
