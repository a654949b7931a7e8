"""A base model whose weights are views of its files: for those who take it apart, part by part.

Nothing is read until it is used, the processes of a node share what the system has read, and what has been
taken apart is forgotten. So no process ever holds the whole model in memory of its own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError, some_of
from finetune.model.attention import stock_attention
from finetune.model.finite import refuse_nonfinite
from finetune.model.load import auto_class, read_model_config


def map_base(model: str, config: ModelConfig) -> PreTrainedModel:
    """The base model on the CPU in the dtype of its files, in evaluation mode, on stock attention.

    Raises ModelError where the files hold other names or shapes than the model: those that transformers
    converts while loading are not taken apart.
    """
    shape = read_model_config(model, config)
    folder = Path(model).resolve() if Path(model).is_dir() else _downloaded(model)
    with no_init_weights(), init_empty_weights(include_buffers=False):
        base: PreTrainedModel = auto_class(shape).from_config(shape, trust_remote_code=config.trust_remote_code)
    _assign(base, _stored(folder), folder)
    refuse_nonfinite(model, base)
    if (folder / "generation_config.json").is_file():
        base.generation_config = GenerationConfig.from_pretrained(folder)
    base.config.name_or_path = base.name_or_path = str(folder if Path(model).is_dir() else model)
    base.set_attn_implementation(stock_attention(base))
    return base.eval()


def _downloaded(model: str) -> Path:
    return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors"]))


def _stored(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no model*.safetensors: a model that is sharded is read from such files")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except SafetensorError as error:
            raise ModelError(f"{file}: a weight file is damaged: {error}") from error
    return tensors


def _assign(base: PreTrainedModel, stored: Mapping[str, Tensor], folder: Path) -> None:
    wanted = dict(_tensors(base))
    missing = sorted(wanted.keys() - stored.keys())
    if missing:
        raise ModelError(
            f"{folder}: its files do not hold {some_of(missing)} under these names; "
            "such a model cannot be taken apart while it is loaded: train without fsdp and ZeRO-3"
        )
    odd = [name for name, tensor in wanted.items() if stored[name].shape != tensor.shape]
    if odd:
        raise ModelError(f"{folder}: weights of another shape than config.json says: {some_of(odd)}")
    base.load_state_dict({name: stored[name] for name in wanted}, strict=False, assign=True)
    base.tie_weights()


def _tensors(base: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Each parameter once (a tied one under its first name), and the buffers that are saved."""
    yield from base.named_parameters()
    saved = base.state_dict()
    yield from ((name, buffer) for name, buffer in base.named_buffers() if name in saved)
