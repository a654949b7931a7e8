"""Which cells of a table every change is tested with, and which only the nightly tests take."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

NIGHTLY = pytest.mark.nightly


def by_tier(cells: Iterable[Any], default: Collection[Any]) -> list[Any]:
    """Parameters of a test: a cell (one value, or a tuple of them) outside `default` is nightly.

    Raises ValueError where `default` names a cell that is not in the table.
    """
    table = list(cells)
    if unknown := [cell for cell in default if cell not in table]:
        raise ValueError(f"not in the table: {unknown}")
    return [
        pytest.param(
            *(cell if isinstance(cell, tuple) else (cell,)), marks=() if cell in default else (NIGHTLY,)
        )
        for cell in table
    ]
