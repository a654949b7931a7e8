"""Fine-tune language and vision-language models on conversations, exactly.

    from finetune import evaluate_file, load_config, load_engine, train

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.config.load import load_config as load_config
    from finetune.eval.command import evaluate_file as evaluate_file
    from finetune.infer.load import load_engine as load_engine
    from finetune.train.run import train as train

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate_file", "load_config", "load_engine", "train"]

_HOME = {
    "evaluate_file": "finetune.eval.command",
    "load_config": "finetune.config.load",
    "load_engine": "finetune.infer.load",
    "train": "finetune.train.run",
}


def __getattr__(name: str) -> object:
    """PEP 562: the public names, from where they live."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
