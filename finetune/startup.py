"""Loading libraries, which is most of what a command takes before it does anything."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import with the garbage collector at rest.

    Modules are many objects and no garbage; to look for it again and again takes a fifth of the time.
    Where this brings torch into the process, all that is there is frozen: no later search walks through it.
    """
    was_on, had_torch = gc.isenabled(), "torch" in sys.modules
    gc.disable()
    try:
        yield
    finally:
        if "torch" in sys.modules and not had_torch:
            gc.freeze()
        if was_on:
            gc.enable()
