"""The estimate against the kernel's word of what a real run held."""

from pathlib import Path

import pytest

from tests.estimate.cells import Cell, cells, run_cell

QUICK = [Cell("tiny", "lora", 2048, "float32"), Cell("tiny", "full", 512, "float32")]
WITHIN = 0.15


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cells")


@pytest.mark.nightly
@pytest.mark.parametrize("cell", QUICK, ids=lambda cell: cell.name)
def test_the_estimate_is_near_what_a_run_takes(cell: Cell, work: Path) -> None:
    measured = run_cell(cell, work, steps=2)
    assert abs(measured.error) < WITHIN, measured.row()


@pytest.mark.long
@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.name)
def test_the_estimate_is_near_what_every_kind_of_run_takes(cell: Cell, work: Path) -> None:
    measured = run_cell(cell, work)
    assert abs(measured.error) < WITHIN, measured.row()
