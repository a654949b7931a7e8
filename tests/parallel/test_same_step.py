"""The same step has the same gradient: however many processes, whoever shares what, however it is packed.

Adam with beta1 = 0 keeps the gradient itself as its first moment, so a checkpoint tells it: summed over the
processes, put together, and before any clipping.
"""

import itertools
from collections.abc import Iterator

import pytest
from torch import Tensor

from tests.parallel.conftest import BACK_ENDS, METHODS, Train, difference, state_of

LAYOUTS = {
    "flat, 48 tokens": ({"tokens_per_micro_batch": 48}, {"attention": "flat"}),
    "flat, 4,096 tokens": ({"tokens_per_micro_batch": 4096}, {"attention": "flat"}),
    "single": ({}, {"attention": "single"}),
}
ROUNDING = 2e-6  # relative, in float32


def cells() -> Iterator[tuple[str, str, bool]]:
    """Method, layout, gradient checkpointing (which a prefix cannot have)."""
    for method, layout, checkpointing in itertools.product(METHODS, LAYOUTS, (False, True)):
        if not (method == "prefix" and checkpointing):
            yield method, layout, checkpointing


def gradient(
    train_on: Train, back_end: str, method: str, layout: str, checkpointing: bool, steps: int = 1
) -> dict[str, Tensor]:
    run, model = LAYOUTS[layout]
    arguments = {"adam_beta1": 0.0, "max_grad_norm": 0.0, "max_steps": steps}
    if checkpointing:
        arguments["gradient_checkpointing"] = True
    if steps > 1:
        arguments |= {"learning_rate": 1e-12, "weight_decay": 0.0}  # the weights stay: only the step is another
    output = train_on(back_end, method, "cell", "no", run=run, model=model, **arguments)
    state = state_of(output / f"checkpoint-{steps}")
    return {name: tensor for name, tensor in state.items() if name.endswith("/exp_avg")}


@pytest.fixture
def references(train_on: Train) -> dict[str, dict[str, Tensor]]:
    """Of one process, by method, in the single layout: the stock attention, one conversation at a time."""
    return {method: gradient(train_on, "one process", method, "single", False) for method in METHODS}


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_every_cell_has_the_gradient_of_one_process_on_stock_attention(
    back_end: str, train_on: Train, references: dict[str, dict[str, Tensor]]
) -> None:
    table = []
    for method, layout, checkpointing in cells():
        found = gradient(train_on, back_end, method, layout, checkpointing)
        apart = difference(references[method], found)
        table.append(
            (apart, f"| {back_end} | {method} | {layout} | {'on' if checkpointing else 'off'} | {apart:.1e} |")
        )
    print("\n".join(line for _, line in table))  # pytest -rP shows it
    assert max(apart for apart, _ in table) < ROUNDING


@pytest.mark.parametrize("back_end", ["ddp", "zero-2", "zero-3", "fsdp2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_leaves_a_process_without_a_conversation_is_the_same_too(
    back_end: str, method: str, train_on: Train
) -> None:
    expected = gradient(train_on, "one process", method, "flat, 4,096 tokens", False, steps=3)
    found = gradient(train_on, back_end, method, "flat, 4,096 tokens", False, steps=3)
    assert difference(expected, found) < ROUNDING


def test_the_gradient_is_not_of_nothing(references: dict[str, dict[str, Tensor]]) -> None:
    for method, tensors in references.items():
        size = sum(float(tensor.square().sum()) for tensor in tensors.values())
        assert size > 1e-6, f"{method}: a gradient of zeros would be equal everywhere"
