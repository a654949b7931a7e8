"""The training loop and what surrounds it. The package can be called: `finetune.train(…)` is `run.train`."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """Importing any module of it binds `train` in `finetune` to this package, whatever stood there before."""

    def __call__(self, *arguments: Any, **options: Any) -> Path:
        from finetune.train.run import train

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
