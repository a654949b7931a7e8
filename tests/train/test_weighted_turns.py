"""Turns with weights of their own, and prompts that are learnt: the loss and its gradient, and nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune.chat.load import load_template
from finetune.config.schema import DataConfig
from finetune.config.tuning import LoraTuning
from finetune.data.dataset import load_examples
from finetune.data.encode import WEIGHT, Example
from finetune.model.attention import FLAT
from finetune.model.batch import collate
from finetune.model.cross_entropy import projected_cross_entropy, summed_cross_entropy
from finetune.model.head import SupervisedLoss
from finetune.model.tuning import apply_tuning
from finetune.train.run import train
from tests.train.conftest import Configure


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


WEIGHTED: list[list[dict[str, Any]]] = [
    [
        turn("user", "say red"),
        turn("assistant", "blue", weight=0.5),
        turn("user", "b"),
        turn("assistant", "mill"),
    ],
    [
        turn("user", "say rain bird"),
        turn("assistant", "stone mill"),
        turn("user", "again"),
        turn("assistant", "river", weight=0),
    ],
    [
        turn("user", "green"),
        turn("assistant", "rain rain", weight=0.25),
        turn("user", "c"),
        turn("assistant", "a", weight=3),
    ],
    [turn("user", "say"), turn("assistant", "red blue green")],
]


@pytest.fixture
def weighted(data: Path) -> Path:
    """DATA_DIR with weighted.jsonl."""
    lines = (json.dumps({"messages": messages}) for messages in WEIGHTED)
    (data / "weighted.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return data


def examples_of(small: Path, data: Path, file: str, **settings: Any) -> Any:
    config = DataConfig(train_file=file, **settings)
    return load_examples(config, file, data, load_template(str(small)), max_length=200)


def test_each_learnt_token_has_the_weight_of_its_turn(small: Path, weighted: Path) -> None:
    template, examples = load_template(str(small)), examples_of(small, weighted, "weighted.jsonl")
    found = [
        [
            (
                template.tokenizer.decode(
                    example.input_ids[example.loss_mask & (example.columns[WEIGHT] == w)]
                ),
                w,
            )
            for w in sorted(set(example.columns[WEIGHT][example.loss_mask].tolist()))
        ]
        for example in examples
    ]
    assert found == [
        [("\nblue<|user|>", 0.5), ("\nmill<|user|>", 1.0)],
        [("\nstone mill<|user|>", 1.0)],
        [("\nrain rain<|user|>", 0.25), ("\na<|user|>", 3.0)],
        [("\nred blue green<|user|>", 1.0)],
    ]
    counted = [float(example.columns[WEIGHT][example.loss_mask].sum()) for example in examples]
    assert examples.weights.tolist() == counted


def test_only_data_with_weights_carries_them(small: Path, weighted: Path) -> None:
    plain = examples_of(small, weighted, "train.jsonl")
    assert plain.columns == {} and plain.weights is plain.supervised
    assert set(examples_of(small, weighted, "weighted.jsonl").columns) == {WEIGHT}  # also from the cache
    assert set(examples_of(small, weighted, "weighted.jsonl").columns) == {WEIGHT}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_row_counts_as_much_as_its_weight(smoothing: float) -> None:
    torch.manual_seed(0)
    hidden, weight = (3 * torch.randn(37, 16)).requires_grad_(), torch.randn(101, 16).requires_grad_()
    targets, factors = torch.arange(37) * 29 % 101, torch.rand(37) * 2
    logits = torch.nn.functional.linear(hidden, weight)
    rows = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    want = torch.autograd.grad(0.25 * (rows * factors).sum(), (hidden, weight))
    for loss in (
        projected_cross_entropy(hidden, weight, targets, smoothing, factors),
        summed_cross_entropy(torch.nn.functional.linear(hidden, weight), targets, smoothing, factors),
    ):
        assert float(loss.detach()) == pytest.approx(float((rows * factors).sum().detach()), rel=1e-6)
        got = torch.autograd.grad(0.25 * loss, (hidden, weight))
        assert max(float((g - w).norm() / w.norm()) for g, w in zip(got, want, strict=True)) < 2e-6


@pytest.mark.parametrize("direct", [True, False], ids=["fused head", "general head"])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "single"])
def test_the_gradient_is_that_of_the_weighted_mean(
    flat: bool, direct: bool, small: Path, weighted: Path
) -> None:
    examples = list(examples_of(small, weighted, "weighted.jsonl"))
    lora = LoraTuning(peft_type="LORA", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)

    def tuned() -> Any:
        torch.manual_seed(3)
        base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(small).eval()
        base.set_attn_implementation(FLAT if flat else "eager")
        return apply_tuning(base, lora)

    ours, plain = tuned(), tuned()
    objective = SupervisedLoss(ours, flat=flat, direct=direct).train()
    denominator = sum(float(one.columns[WEIGHT][one.loss_mask].sum()) for one in examples)
    for some in [examples] if flat else [[one] for one in examples]:
        (objective(collate(some)) / denominator).backward()
    plain.base.set_attn_implementation("eager")
    reference(plain.model, examples).backward()
    got, want = (torch.cat([p.grad.flatten() for _, p in one.trainable()]) for one in (ours, plain))
    assert float((got - want).norm() / want.norm()) < 2e-6


def reference(model: Any, examples: list[Example]) -> torch.Tensor:
    """sum of weight x cross-entropy / sum of weights, token by token, by torch alone."""
    summed, counted = torch.zeros(()), 0.0
    for example in examples:
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
        for at in np.flatnonzero(example.loss_mask):
            weight = float(example.columns[WEIGHT][at])
            summed = summed - weight * logs[at - 1, ids[0, at]]
            counted += weight
    return summed / counted


def test_a_run_s_loss_is_the_weighted_mean_and_tokens_are_counted_whole(
    small: Path, weighted: Path, configure: Configure
) -> None:
    config = configure(None, "weights", max_steps=1, learning_rate=1e-12)
    output = train(weighted, str(small), config, overrides=["data_config.train_file=weighted.jsonl"])
    (line,) = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    examples = list(examples_of(small, weighted, "weighted.jsonl"))
    model = AutoModelForCausalLM.from_pretrained(small).eval()
    assert line["loss"] == pytest.approx(float(reference(model, examples).detach()), rel=1e-6)
    assert line["supervised_tokens"] == sum(int(one.loss_mask.sum()) for one in examples)


def test_everything_is_learnt_but_the_first_token_and_what_is_marked(small: Path, data: Path) -> None:
    rows = [
        [turn("system", "be brief"), turn("user", "say red"), turn("assistant", "blue")],
        [
            turn("user", "q"),
            turn("assistant", "wrong", train=False),
            turn("user", "again"),
            turn("assistant", "right", weight=0.5),
        ],
    ]
    (data / "e.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    template, examples = load_template(str(small)), examples_of(small, data, "e.jsonl", train_on="everything")
    learnt = [template.tokenizer.decode(example.input_ids[example.loss_mask]) for example in examples]
    assert learnt == [
        "<sop><|system|>\nbe brief<|user|>\nsay red<|assistant|>\nblue<|user|>",
        "<sop><|user|>\nq<|assistant|>\nagain<|assistant|>\nright<|user|>",
    ]
    tail = examples[1].columns[WEIGHT][examples[1].loss_mask][-3:]
    assert tail.tolist() == [0.5, 0.5, 0.5] and examples[1].columns[WEIGHT][1] == 1
