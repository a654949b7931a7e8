"""A GGUF file to a folder that transformers loads: its weights dequantized, its tokenizer and chat template."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()


def convert(file: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write model and tokenizer of a GGUF file into `folder`. Needs the library gguf."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True), dtype=dtype
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
