"""A plugin of pytest: the program under test is the copy that this file lies in, or nothing is tested."""

from pathlib import Path

import finetune

if not Path(finetune.__file__).is_relative_to(Path(__file__).parents[2]):
    raise RuntimeError(f"{finetune.__file__} would be tested, not the copy that holds {__file__}")
