"""A flat batch gives what stock eager attention gives, one conversation at a time: per family, per method."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from finetune.config.tuning import IA3Tuning, LoraTuning, PrefixTuning, Tuning
from finetune.data.encode import Example
from finetune.model.attention import FLAT, why_not_flat
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning
from tests import families

FAMILIES: dict[str, dict[str, Any]] = {
    "glm": {"attention_bias": True},
    "glm4": {},
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "gemma": {},
    "phi3": {},
}
METHODS: dict[str, Tuning | None] = {
    "full": None,
    "lora": LoraTuning(peft_type="LORA", r=4, target_modules="all-linear"),
    "ia3": IA3Tuning(peft_type="IA3", target_modules=["down_proj"], feedforward_modules=["down_proj"]),
    "prefix": PrefixTuning(peft_type="PREFIX_TUNING", num_virtual_tokens=5),
    "projected prefix": PrefixTuning(
        peft_type="PREFIX_TUNING", num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=16
    ),
}
LENGTHS = (7, 1, 19, 12, 2)


def tiny(family: str, **changes: Any) -> PreTrainedModel:
    return families.tiny(family, **(FAMILIES.get(family, {}) | changes))


def tuned(family: str, method: str) -> Tuned:
    result = apply_tuning(tiny(family), METHODS[method])
    torch.manual_seed(1)
    for _, parameter in result.trainable():
        parameter.data += 0.1 * torch.randn_like(parameter)  # away from adapters that start as no-ops
    return result


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(1, 96, length).astype(np.int32), rng.random(length) < 0.6) for length in LENGTHS
    ]


def loss_and_gradients(tuned: Tuned, layout: str) -> tuple[float, dict[str, torch.Tensor]]:
    tuned.base.set_attn_implementation(FLAT if layout == "flat" else "eager")
    objective = SupervisedLoss(tuned, flat=layout == "flat").eval()
    micro_batches = [examples()] if layout == "flat" else [[example] for example in examples()]
    tuned.model.zero_grad()
    total = sum(objective(collate(micro_batch)) for micro_batch in micro_batches)
    total.backward()
    return float(total.detach()), {name: p.grad.clone() for name, p in tuned.trainable() if p.grad is not None}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_agree(family: str, method: str) -> None:
    model = tuned(family, method)
    single_loss, single = loss_and_gradients(model, "single")
    flat_loss, flat = loss_and_gradients(model, "flat")
    assert flat_loss == pytest.approx(single_loss, rel=2e-6)
    assert flat.keys() == single.keys() and flat
    for name, gradient in single.items():
        scale = max(float(gradient.norm()), 1e-6)
        assert float((flat[name] - gradient).norm()) <= 1e-5 * scale, name


def test_flat_attention_without_borders_raises() -> None:
    model = tiny("glm")
    model.set_attn_implementation(FLAT)
    with pytest.raises(RuntimeError, match="borders"):
        model(input_ids=torch.ones(1, 4, dtype=torch.int64), use_cache=False)


@pytest.mark.parametrize(
    ("family", "changes", "longest", "reason"),
    [
        ("mistral", {"sliding_window": 8}, 9, "sliding window of 8"),
        ("mistral", {"sliding_window": 8}, 8, None),
        ("gemma2", {}, 9, "soft-caps"),
        ("glm", {}, 100_000, None),
    ],
)
def test_models_that_flat_attention_would_get_wrong_are_told_apart(
    family: str, changes: dict[str, Any], longest: int, reason: str | None
) -> None:
    found = why_not_flat(tiny(family, **changes), longest)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_a_sliding_window_is_refused_at_run_time_too() -> None:
    model = tiny("mistral", sliding_window=4)
    model.set_attn_implementation(FLAT)
    batch = collate(examples())
    with pytest.raises(RuntimeError, match="sliding window of 4 over 19"):
        model(batch.input_ids, position_ids=batch.position_ids, borders=batch.borders, use_cache=False)


def test_a_batch_of_nothing_has_loss_zero_and_a_gradient_for_every_weight() -> None:
    model = tuned("glm", "full")
    model.base.set_attn_implementation(FLAT)
    loss = SupervisedLoss(model, flat=True)(collate([]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for _, p in model.trainable())
