"""What a person names on the command line to an engine that answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune import folder, log
from finetune.base import compare_base
from finetune.chat.load import load_template
from finetune.chat.template import ChatTemplate
from finetune.chat.thoughts import Thinking
from finetune.config.schema import ModelConfig
from finetune.infer.hf import HFEngine
from finetune.model.load import load_base
from finetune.model.precision import precision_to_answer


def load_engine(
    model_or_run: str | Path | folder.Source,
    *,
    quantization: str | None = None,
    trust_remote_code: bool = False,
    chat_template: Path | None = None,
    options: Mapping[str, Any] | None = None,
    thinking: Thinking = "train",
    template: ChatTemplate | None = None,
) -> HFEngine:
    """Load a model, adapter, checkpoint or run with the template it was taught with; says which it took.

    `options`, `thinking`: as for ChatTemplate; what a run was taught with is in its template already.
    `template`: where somebody has loaded it before.

    The base keeps the dtype it is stored in, or becomes `nf4` or `int8`; it goes to the GPU if there is one. On
    a CPU that is slow in that dtype, it becomes float32.
    Raises ModelError, TemplateError, UntrustedContentError, or MissingLibraryError without bitsandbytes.
    """
    source = model_or_run if isinstance(model_or_run, folder.Source) else folder.resolve(str(model_or_run))
    log.info(f"model: {source.note}")
    _warn_of_other_base(source)
    # Before the weights, because it fails in a second where they take minutes.
    template = template or load_template(
        source.template,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
        options=options,
        thinking=thinking,
        model=source.model,
    )
    config = ModelConfig.model_validate({"quantization": quantization, "trust_remote_code": trust_remote_code})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = precision_to_answer(source.model, config, device)
    base = load_base(source.model, config, device=device, precision=precision)
    if source.adapter is None:
        return HFEngine(base, template)
    # Here, not above: peft takes a second to load, and a model without an adapter needs none of it.
    from finetune.model.tuning import load_adapter

    return HFEngine(load_adapter(base, source.adapter).model, template)


def _warn_of_other_base(source: folder.Source) -> None:
    """peft puts an adapter on any base of the same shape without a word."""
    other = None if source.adapter is None else compare_base(source.adapter, source.model)
    if other is not None:
        log.warning(f"{source.adapter}: {other}: {source.model}; its answers may mean nothing there")
