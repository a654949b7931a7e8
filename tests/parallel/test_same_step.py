"""The same step has the same gradient: however many processes, whoever shares what, however it is packed.

Adam with beta1 = 0 keeps the gradient itself as its first moment, so a checkpoint tells it: summed over the
processes, put together, and before any clipping.

Every change is tested with a fifth of the table, in which each back end meets each layout, each layout each
method, and each back end three of the five ways to train; `--nightly` takes all of it.
"""

import itertools
from typing import Any

import pytest
from torch import Tensor

from tests.parallel.conftest import BACK_ENDS, METHODS, SHARED, Train, difference, state_of
from tests.tiers import by_tier

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flat, 48 tokens": ({"tokens_per_micro_batch": 48}, {"attention": "flat"}),
    "flat, 4,096 tokens": ({"tokens_per_micro_batch": 4096}, {"attention": "flat"}),
    "single": ({}, {"attention": "single"}),
}
ROUNDING = 2e-6  # relative, in float32

WAYS = [("lora", "off"), ("prefix", "off"), ("full", "off"), ("lora", "on"), ("full", "on")]
"""Method, and gradient checkpointing, which a prefix cannot have."""
CELLS = [(*cell[:2], *cell[2]) for cell in itertools.product(BACK_ENDS, LAYOUTS, WAYS)]
DEFAULT = [
    (back_end, layout, *WAYS[(i + 2 * k) % len(WAYS)])
    for i, back_end in enumerate(BACK_ENDS)
    for k, layout in enumerate(LAYOUTS)
]
"""A Latin square: a fifth of the cells, and all pairs with a layout."""


def gradient(
    train_once: Train, back_end: str, method: str, layout: str, checkpointing: str = "off", steps: int = 1
) -> dict[str, Tensor]:
    run, model = LAYOUTS[layout]
    arguments: dict[str, Any] = {"adam_beta1": 0.0, "max_grad_norm": 0.0, "max_steps": steps}
    if checkpointing == "on":
        arguments["gradient_checkpointing"] = True
    if steps > 1:
        arguments |= {"learning_rate": 1e-12, "weight_decay": 0.0}  # the weights stay: only the step is another
    output = train_once(back_end, method, run=run, model=model, **arguments)
    state = state_of(output / f"checkpoint-{steps}")
    return {name: tensor for name, tensor in state.items() if name.endswith("/exp_avg")}


def reference(train_once: Train, method: str) -> dict[str, Tensor]:
    """Of one process in the single layout: the stock attention, one conversation at a time."""
    return gradient(train_once, "one process", method, "single")


@pytest.mark.parametrize(("back_end", "layout", "method", "checkpointing"), by_tier(CELLS, DEFAULT))
def test_every_cell_has_the_gradient_of_one_process_on_stock_attention(
    back_end: str, layout: str, method: str, checkpointing: str, train_once: Train
) -> None:
    found = gradient(train_once, back_end, method, layout, checkpointing)
    apart = difference(reference(train_once, method), found)
    print(f"| {back_end} | {method} | {layout} | {checkpointing} | {apart:.1e} |")  # pytest -rP shows it
    assert apart < ROUNDING


@pytest.mark.parametrize(
    ("method", "back_end"),
    by_tier(
        itertools.product(METHODS, SHARED),
        [("lora", "ddp"), ("lora", "zero-2"), ("lora", "fsdp2"), ("prefix", "ddp"), ("full", "fsdp2")],
    ),
)
def test_a_step_that_leaves_a_process_without_a_conversation_is_the_same_too(
    method: str, back_end: str, train_once: Train
) -> None:
    expected = gradient(train_once, "one process", method, "flat, 4,096 tokens", steps=3)
    found = gradient(train_once, back_end, method, "flat, 4,096 tokens", steps=3)
    assert difference(expected, found) < ROUNDING


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_not_of_nothing(method: str, train_once: Train) -> None:
    size = sum(float(tensor.square().sum()) for tensor in reference(train_once, method).values())
    assert size > 1e-6, "a gradient of zeros would be equal everywhere"
