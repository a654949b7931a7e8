"""`finetune generate`: a file of conversations in, a file of completions out."""

from pathlib import Path

from finetune import folder
from finetune.chat.load import load_template
from finetune.config.schema import DataConfig
from finetune.data.dataset import load_conversations
from finetune.infer.author import author_of
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
    source = folder.resolve(model_or_run)
    template = load_template(source.template, trust_remote_code=trust_remote_code, model=source.model)
    return generate_file(
        lambda: load_engine(
            source, template=template, quantization=quantization, trust_remote_code=trust_remote_code
        ),
        samples,
        output_file,
        sampling=sampling,
        batch_size=batch_size,
        author=author_of(source, template, quantization=quantization, trust_remote_code=trust_remote_code),
    )
