"""Which process this is among how many. Only here are RANK, WORLD_SIZE and restart count read."""

import os


def rank() -> int:
    """This process's number, from 0, over all nodes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True for the one process that speaks and writes."""
    return rank() == 0


def restarted() -> bool:
    """True when torchrun started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
