"""Which process this is among how many. Only here are the launcher's variables read."""

import os


def rank() -> int:
    """This process's number, from 0, over all nodes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its node."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many of them are on this node; all of them where the launcher does not say."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world_size())


def is_main() -> bool:
    """True for the one process that speaks and writes."""
    return rank() == 0


def launched() -> bool:
    """True where torchrun, accelerate, deepspeed or our own launcher started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def restarted() -> bool:
    """True when torchrun started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
