"""The objective is torch's own cross-entropy over the full logits; what is only for training is only there."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from finetune.config.tuning import LoraTuning, PromptTuning
from finetune.data.encode import Example
from finetune.model.attention import FLAT
from finetune.model.batch import Batch, collate
from finetune.model.head import SupervisedLoss, is_direct
from finetune.model.tuning import apply_tuning
from tests.families import tiny


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    lengths = (9, 1, 17)
    return collate([Example(rng.integers(0, 300, n).astype(np.int32), rng.random(n) < 0.5) for n in lengths])


def objective(base: PreTrainedModel, **options: Any) -> SupervisedLoss:
    """Of a full fine-tuning, flat, and (but for its options) training."""
    base.set_attn_implementation(FLAT)
    made = SupervisedLoss(apply_tuning(base, None), flat=True, **options)
    return made.train()


@torch.no_grad()
def full_logits(base: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """(T, V): of every position."""
    arguments = {"position_ids": batch.position_ids, "borders": batch.borders, "use_cache": False}
    return base(input_ids=batch.input_ids, **arguments).logits[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_supervised_positions_alone_give_the_loss_of_the_full_logits(
    smoothing: float, base: PreTrainedModel, batch: Batch
) -> None:
    labels = torch.full_like(batch.input_ids[0], -100)
    labels[batch.rows] = batch.targets
    loss = objective(base, label_smoothing=smoothing)(batch)
    expected = cross_entropy(full_logits(base, batch), labels, reduction="sum", label_smoothing=smoothing)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-6)
    assert 0 < len(batch.targets) < batch.input_ids.shape[1]


def test_the_first_token_of_a_conversation_is_never_a_target() -> None:
    two = Example(np.array([7, 8], dtype=np.int32), np.ones(2, dtype=np.bool_))
    batch = collate([two, two])
    assert (batch.rows.tolist(), batch.targets.tolist()) == ([0, 2], [8, 8])


def test_label_smoothing_is_left_out_of_an_evaluation(base: PreTrainedModel, batch: Batch) -> None:
    smoothed, plain = objective(base, label_smoothing=0.3), objective(base)
    assert float(smoothed(batch).detach()) != float(plain(batch).detach())
    assert torch.equal(smoothed.eval()(batch), plain.eval()(batch))


def test_neftune_s_noise_is_drawn_in_training_only(base: PreTrainedModel, batch: Batch) -> None:
    noisy, plain = objective(base, neftune_alpha=5.0), objective(base)
    clean = plain(batch)
    assert not torch.equal(noisy(batch), clean)
    assert not torch.equal(noisy(batch), noisy(batch))
    assert torch.equal(noisy.eval()(batch), clean)


def test_neftune_s_noise_is_as_large_as_the_paper_says(base: PreTrainedModel, batch: Batch) -> None:
    embeddings, clean = base.get_input_embeddings(), base.get_input_embeddings()(batch.input_ids)
    heard: list[torch.Tensor] = []
    first = base.model.layers[0]
    first.register_forward_pre_hook(lambda layer, given: heard.append(given[0]))
    objective(base, neftune_alpha=5.0)(batch)
    noise = (heard[0] - clean)[0].abs()
    assert torch.equal(embeddings(batch.input_ids), clean), "noise outside the objective"
    for start, stop in ((0, 9), (9, 10), (10, 27)):
        most = 5.0 / ((stop - start) * 32) ** 0.5
        assert 0.8 * most < float(noise[start:stop].max().detach()) <= most * (1 + 1e-5)


@pytest.mark.parametrize("direct", [False, True])
def test_a_prompt_shifts_what_is_supervised_behind_its_virtual_tokens(
    direct: bool, base: PreTrainedModel
) -> None:
    tuned = apply_tuning(base, PromptTuning(peft_type="PROMPT_TUNING", num_virtual_tokens=3))
    one = collate([Example(np.arange(5, 17, dtype=np.int32), np.arange(12) >= 6)])
    loss = SupervisedLoss(tuned, flat=False, direct=direct).eval()(one)
    prompt = tuned.model.get_prompt(batch_size=1)
    words = torch.cat((prompt, base.get_input_embeddings()(one.input_ids)), dim=1)
    logits = base(inputs_embeds=words, use_cache=False).logits[0, 3:]
    expected = cross_entropy(logits[one.rows], one.targets, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize(
    ("family", "changes", "direct"),
    [
        ("glm", {}, True),
        ("llama", {"tie_word_embeddings": True}, True),
        ("qwen2", {}, True),
        ("gemma2", {"final_logit_softcapping": 5.0}, False),
        ("cohere", {"logit_scale": 0.25}, False),
        ("granite", {"logits_scaling": 8.0}, False),
    ],
)
def test_logits_that_something_is_done_to_are_not_taken_for_the_output_layer_s(
    family: str, changes: dict[str, Any], direct: bool
) -> None:
    objective = SupervisedLoss(apply_tuning(tiny(family, **changes), None), flat=False).eval()
    assert is_direct(objective, torch.device("cpu")) is direct


def test_an_output_layer_with_an_adapter_is_not_direct(base: PreTrainedModel) -> None:
    lora = LoraTuning(peft_type="LORA", target_modules=["q_proj", "lm_head"])
    assert not is_direct(SupervisedLoss(apply_tuning(base, lora), flat=False), torch.device("cpu"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", [None, LoraTuning(peft_type="LORA", target_modules="all-linear")])
def test_the_loss_in_the_place_of_the_logits_has_the_same_gradients(
    method: LoraTuning | None, tied: bool, batch: Batch
) -> None:
    found = []
    for direct in (False, True):
        base = tiny("llama", vocab_size=320, tie_word_embeddings=tied)
        base.set_attn_implementation(FLAT)
        tuned = apply_tuning(base, method)
        torch.manual_seed(1)
        for _, parameter in tuned.trainable():
            parameter.data += 0.1 * torch.randn_like(parameter)
        loss = SupervisedLoss(tuned, flat=True, direct=direct, label_smoothing=0.1).train()(batch)
        loss.backward()
        found.append({"loss": loss.detach()} | {name: p.grad for name, p in tuned.trainable()})
    stock, ours = found
    assert all(float((ours[n] - stock[n]).norm() / stock[n].norm()) < 2e-6 for n in stock)


def test_a_batch_without_targets_has_a_loss_of_zero_that_reaches_every_weight(base: PreTrainedModel) -> None:
    base.set_attn_implementation(FLAT)
    tuned = apply_tuning(base, LoraTuning(peft_type="LORA", target_modules=["q_proj"]))
    loss = SupervisedLoss(tuned, flat=True, direct=True).train()(collate([]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for _, p in tuned.trainable())
