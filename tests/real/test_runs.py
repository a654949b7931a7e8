"""The demo with a real model, a run killed and resumed, and TRL on the same rows. Thresholds far from noise.

`python -m tests.real > docs/real.md` writes what these measure.
"""

from pathlib import Path

import pytest

from tests.real import measure

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> measure.Demo:
    return measure.demo(tmp_path_factory.mktemp("demo"))


def test_a_pretrained_model_learns_to_call_functions_that_it_has_not_seen(demo: measure.Demo) -> None:
    """Measured: base 0, tuned 65 % of 60, where one standard deviation is 6 %."""
    base, tuned = demo.share("accepted")
    assert demo.tuned["turns"] == 60
    assert base <= 10 and tuned >= 45
    assert demo.share("name")[1] >= 80


def test_a_merged_real_model_answers_as_with_its_adapter(demo: measure.Demo) -> None:
    assert demo.top_1 >= 99
    assert demo.kl <= 1e-3


def test_a_killed_run_of_a_real_model_ends_byte_for_byte(tmp_path: Path) -> None:
    step, equal = measure.resumed_equals_straight(tmp_path, steps=4)
    assert step == 2 and equal


def test_losses_are_those_of_trl_on_the_same_rows(tmp_path: Path) -> None:
    both = measure.against_trl(tmp_path, steps=8)
    assert len(both.ours) == 8
    assert both.ours[-1] < 0.7 * both.ours[0]
    assert both.difference <= 1e-3
