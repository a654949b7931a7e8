"""Fine-tune language and vision-language models on conversations, exactly.

    import finetune

    run = finetune.train("data", "THUDM/glm-4-9b-chat-hf", "configs/lora.yaml")
    report = finetune.evaluate(run, "data/test.jsonl")
    print(finetune.load_engine(run).chat([{"role": "user", "content": "Hello!"}]).content)

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune.chat.load import load_template as load_template
    from finetune.config.load import load_config as load_config
    from finetune.data.checking.check import check_data as check
    from finetune.eval.command import evaluate_file as evaluate
    from finetune.infer.load import load_engine as load_engine
    from finetune.train.run import train as train

__version__ = "0.1.0"
__all__ = ["__version__", "check", "evaluate", "load_config", "load_engine", "load_template", "train"]

_HOME = {
    "check": ("finetune.data.checking.check", "check_data"),
    "evaluate": ("finetune.eval.command", "evaluate_file"),
    "evaluate_file": ("finetune.eval.command", "evaluate_file"),  # its name in 0.1.0
    "load_config": ("finetune.config.load", "load_config"),
    "load_engine": ("finetune.infer.load", "load_engine"),
    "load_template": ("finetune.chat.load", "load_template"),
}


def __getattr__(name: str) -> object:
    """PEP 562: the public names, from where they live. `train` is a package that can be called."""
    if name == "train":
        return import_module("finetune.train")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inside = _HOME[name]
    return getattr(import_module(module), inside)


def __dir__() -> list[str]:
    return sorted(__all__)
