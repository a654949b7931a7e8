"""What a prefix starts as does not depend on who holds it."""

import itertools

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.parallel.conftest import METHODS, SHARED, Train, difference
from tests.tiers import by_tier

PLAIN = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 6, "prefix_init": "text"}


def saved(train_on: Train, back_end: str, **changes: float) -> dict[str, Tensor]:
    """Keys and values of the prefix behind one step that changes nothing."""
    still = {"max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    output = train_on(back_end, "opening", back_end, "no", **(still | changes))
    return load_file(output / "checkpoint-1" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("projected", "back_end"),
    by_tier(itertools.product([False, True], SHARED), [(True, "fsdp2")]),
)
def test_a_prefix_starts_alike_in_all_back_ends(
    projected: bool, back_end: str, train_on: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "opening", PLAIN | {"prefix_projection": projected})
    expected = saved(train_on, "one process")
    monkeypatch.setitem(METHODS, "opening", PLAIN | {"prefix_projection": projected, "prefix_init": "tokens"})
    assert difference(expected, saved(train_on, "one process")) > 0.1
    monkeypatch.setitem(METHODS, "opening", PLAIN | {"prefix_projection": projected})
    assert difference(expected, saved(train_on, back_end)) < 1e-5
