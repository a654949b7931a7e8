"""Learning rates of their own: which parameters have them, and that a step goes by them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune.config.arguments import Optimizer
from finetune.config.sections import RunConfig
from finetune.config.tuning import LoraTuning
from finetune.errors import ConfigError, ResumeMismatchError
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning
from finetune.train.optimizer import make_optimizer
from finetune.train.rates import own_rates
from finetune.train.run import train
from tests.tiers import by_tier
from tests.train.conftest import LORA, PREFIX, Configure


def tuned(small: Path, **options: Any) -> Tuned:
    base = AutoModelForCausalLM.from_pretrained(small)
    return apply_tuning(base, LoraTuning(peft_type="LORA", **options) if options else None)


def rates_of(optimizer: torch.optim.Optimizer, model: Tuned) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.trainable()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def ours(model: Tuned, **run: Any) -> dict[str, float]:
    section = Optimizer(learning_rate=0.01)
    rates = own_rates(RunConfig(**run), model, 0.01)
    return rates_of(make_optimizer(section, model.trainable(), rates=rates), model)


def test_lora_plus_gives_the_rates_that_peft_gives(small: Path) -> None:
    model = tuned(small, target_modules=["q_proj", "down_proj", "embed_tokens"])
    found = ours(model, loraplus_lr_ratio=16.0, embedding_learning_rate=1e-4)
    theirs = create_loraplus_optimizer(
        model.model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16.0, loraplus_lr_embedding=1e-4
    )
    assert found == rates_of(theirs, model)
    assert set(found.values()) == {0.01, 0.16, 1e-4}


@pytest.mark.parametrize(
    ("options", "run", "own"),
    [
        (
            {"target_modules": ["q_proj", "embed_tokens"]},
            {"loraplus_lr_ratio": 16.0},
            {"lora_B": 0.16, "lora_embedding_B": 0.16},
        ),
        (
            {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
            {"embedding_learning_rate": 1e-4},
            {"modules_to_save": 1e-4},
        ),
        (
            {"target_modules": ["q_proj", "lm_head"]},
            {"embedding_learning_rate": 1e-4, "loraplus_lr_ratio": 16.0},
            {"lm_head": 1e-4, "q_proj.lora_B": 0.16},
        ),
        (
            {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
            {"embedding_learning_rate": 1e-4},
            {"trainable_tokens_delta": 1e-4},
        ),
        ({"target_modules": ["q_proj"], "lora_bias": True}, {"loraplus_lr_ratio": 2.0}, {"lora_B": 0.02}),
        ({}, {"embedding_learning_rate": 1e-4}, {"embed_tokens": 1e-4, "lm_head": 1e-4}),
    ],
)
def test_which_parameters_have_a_rate_of_their_own(
    options: dict[str, Any], run: dict[str, Any], own: dict[str, float], small: Path
) -> None:
    found = ours(tuned(small, **options), **run)
    expected = {n: next((rate for part, rate in own.items() if part in n), 0.01) for n in found}
    assert found == expected
    assert {rate for rate in found.values() if rate != 0.01} == set(own.values())


def test_without_the_keys_the_groups_are_as_they_were(small: Path) -> None:
    model = tuned(small, target_modules=["q_proj"])
    groups = make_optimizer(Optimizer(learning_rate=0.01), model.trainable(), rates={}).param_groups
    assert [(group["lr"], len(group["params"])) for group in groups] == [(0.01, 4)]


@pytest.mark.parametrize(
    ("peft", "key", "said"),
    [
        (LORA, "embedding_learning_rate", "no embedding and no output layer is trained"),
        (PREFIX, "embedding_learning_rate", "no embedding and no output layer is trained"),
        (PREFIX, "loraplus_lr_ratio", "no LoRA is trained"),
        (None, "loraplus_lr_ratio", "no LoRA is trained"),
    ],
)
def test_a_rate_that_nothing_goes_by_is_refused(
    peft: dict[str, Any] | None, key: str, said: str, small: Path, data: Path, configure: Configure
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(data, str(small), configure(peft), overrides=[f"run.{key}=0.5"])


WITH_EMBEDDINGS = {**LORA, "init_lora_weights": False, "lora_dropout": 0.0, "modules_to_save": ["embed_tokens"]}


def changes(output: Path, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    after = load_file(output / "checkpoint-1" / "training_state.safetensors")
    return {name: after[name] - before[name] for name in before}


def test_a_step_is_so_many_times_as_long(small: Path, data: Path, configure: Configure) -> None:
    arguments: dict[str, Any] = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1.0}
    plain, own, still = (
        train(data, str(small), configure(WITH_EMBEDDINGS, name, **arguments | more), overrides=overrides)
        for name, more, overrides in (
            ("plain", {}, []),
            ("own", {}, ["run.loraplus_lr_ratio=4", "run.embedding_learning_rate=2.0"]),
            ("still", {"learning_rate": 1e-30}, []),
        )
    )
    start = load_file(still / "checkpoint-1" / "training_state.safetensors")
    before = {name: tensor for name, tensor in start.items() if name.startswith("trainable/")}
    one, other = changes(plain, before), changes(own, before)
    for name in before:
        times = 4 if "lora_B" in name else 2 if "embed_tokens" in name else 1
        apart = float((other[name] - times * one[name]).norm() / one[name].norm())
        assert apart < 1e-3, name  # the weights themselves are rounded to float32


@pytest.mark.parametrize(
    "optim", by_tier(["adamw_torch_fused", "adamw_8bit", "adafactor"], ["adamw_torch_fused"])
)
def test_a_resumed_run_with_them_is_the_uninterrupted_run(
    optim: str, small: Path, data: Path, configure: Configure
) -> None:
    if "8bit" in optim:
        pytest.importorskip("bitsandbytes")
    overrides = ["run.loraplus_lr_ratio=4", "run.embedding_learning_rate=0.001"]
    straight = train(data, str(small), configure(WITH_EMBEDDINGS, "straight", optim=optim), overrides=overrides)
    broken = configure(WITH_EMBEDDINGS, "broken", optim=optim)
    train(data, str(small), broken, overrides=overrides)
    resumed = train(data, str(small), broken, resume="3", overrides=overrides)
    one, other = (
        load_file(output / "checkpoint-6" / "training_state.safetensors") for output in (straight, resumed)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ResumeMismatchError, match=r"run\.loraplus_lr_ratio: 4.* in the checkpoint, 8"):
        train(data, str(small), broken, resume="3", overrides=["run.loraplus_lr_ratio=8", overrides[1]])
