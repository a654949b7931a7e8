"""Learning rates of their own hold in copies and in shares: all back ends make the step of one process."""

from typing import Any

import pytest

from tests.parallel.conftest import LORA, METHODS, SHARED, Train, difference, state_of
from tests.tiers import by_tier

OWN: dict[str, Any] = {
    **LORA,
    "init_lora_weights": False,
    "modules_to_save": ["embed_tokens"],
}


@pytest.mark.parametrize("back_end", by_tier(SHARED, ["fsdp2"]))
def test_all_back_ends_make_the_same_steps(
    back_end: str, train_on: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "own rates", OWN)
    run = {"loraplus_lr_ratio": 8.0, "embedding_learning_rate": 0.002}
    alone, together, plain = (
        state_of(train_on(name, "own rates", "cell", "no", run=keys, max_steps=3) / "checkpoint-3")
        for name, keys in (("one process", run), (back_end, run), (back_end, {}))
    )
    weights = [
        {n: tensor for n, tensor in state.items() if n.startswith("trainable/")}
        for state in (alone, together, plain)
    ]
    assert difference(weights[0], weights[1]) < 1e-5
    assert difference(weights[0], weights[2]) > 1e-3
