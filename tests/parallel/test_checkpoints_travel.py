"""What one kind of run saved, any other goes on from, to the same end; and plain libraries load it."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune.folder import verify
from tests.parallel.conftest import METHODS, SHARED, Train, difference, state_of
from tests.tiers import by_tier

AGREE = 1e-6  # relative, in float32, after 12 steps
TOUR = ("one process", "zero-3", "ddp", "fsdp2", "zero-2", "one process")


def straight(train_once: Train, method: str) -> Path:
    """The 12th step of one process that was never stopped."""
    return train_once("one process", method, max_steps=12) / "checkpoint-12"


@pytest.mark.parametrize(
    ("back_end", "method"),
    by_tier(itertools.product(SHARED, METHODS), [("ddp", "prefix"), ("zero-2", "full")]),
)
def test_two_processes_come_to_where_one_comes(back_end: str, method: str, train_once: Train) -> None:
    output = train_once(back_end, method, max_steps=12)
    assert difference(state_of(straight(train_once, method)), state_of(output / "checkpoint-12")) < AGREE


@pytest.mark.parametrize("method", by_tier(METHODS, []))
def test_a_run_that_changes_its_back_end_every_two_steps_comes_to_the_same_end(
    method: str, train_on: Train, train_once: Train
) -> None:
    for leg, back_end in enumerate(TOUR, start=1):
        output = train_on(back_end, method, "tour", "yes", max_steps=2 * leg)
    manifest = verify(output / "checkpoint-12")
    assert (manifest.step, manifest.conversations_per_step) == (12, 5)
    assert difference(state_of(straight(train_once, method)), state_of(output / "checkpoint-12")) < AGREE
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))


@pytest.mark.parametrize("back_end", by_tier(SHARED, ["zero-2", "fsdp2"]))
def test_saved_by_two_goes_on_with_one_and_back(back_end: str, train_on: Train, train_once: Train) -> None:
    for first, second in (("one process", back_end), (back_end, "one process")):
        output = f"{first} {second}"
        train_on(first, "lora", output, max_steps=5)
        end = train_on(second, "lora", output, "5", max_steps=12) / "checkpoint-12"
        assert difference(state_of(straight(train_once, "lora")), state_of(end)) < AGREE


@pytest.mark.parametrize("back_end", by_tier(SHARED, ["ddp"]))
def test_a_step_keeps_its_size_when_nobody_states_it(back_end: str, train_on: Train) -> None:
    batches = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    unstated = {"conversations_per_step": None}
    train_on(back_end, "lora", "sized", max_steps=2, run=unstated, **batches)
    end = train_on("one process", "lora", "sized", "yes", max_steps=4, run=unstated, **batches)
    assert [verify(end / f"checkpoint-{step}").conversations_per_step for step in (2, 4)] == [4, 4]


@pytest.mark.parametrize(
    ("method", "back_end"),
    by_tier(itertools.product(METHODS, SHARED), [("prefix", "ddp"), ("full", "fsdp2")]),
)
def test_the_same_files_with_the_same_names_whoever_writes_them(
    method: str, back_end: str, train_once: Train, small: Path
) -> None:
    one = train_once("one process", method, max_steps=2) / "checkpoint-2"
    two = train_once(back_end, method, max_steps=2) / "checkpoint-2"
    names = [sorted(path.name for path in folder.iterdir()) for folder in (one, two)]
    assert names[0] == names[1]
    for name in ("config.json", "adapter_config.json", "generation_config.json"):
        if (one / name).exists():
            assert (one / name).read_text() == (two / name).read_text()
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert difference(load_file(one / weights), load_file(two / weights)) < AGREE
    assert torch.allclose(logits(one, method, small), logits(two, method, small), atol=1e-5)


@torch.no_grad()
def logits(checkpoint: Path, method: str, base: Path) -> torch.Tensor:
    """In plain transformers and peft."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint if method == "full" else base)
    if method != "full":
        model = PeftModel.from_pretrained(model, str(checkpoint))
    return model.eval()(input_ids=torch.arange(3, 43)[None]).logits.float()


@pytest.mark.parametrize("back_end", by_tier(SHARED, ["ddp"]))
def test_two_processes_resume_to_the_byte(back_end: str, train_on: Train) -> None:
    """Dropout, and an evaluation between: every process draws on where it stood."""
    options = {"max_steps": 6, "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    dropout = {"neftune_noise_alpha": 5.0}  # noise that every process draws for itself
    output = train_on(back_end, "lora", "bytes", **options, **dropout)
    straight = (output / "checkpoint-6" / "training_state.safetensors").read_bytes()
    train_on(back_end, "lora", "bytes", "3", **options, **dropout)
    assert (output / "checkpoint-6" / "training_state.safetensors").read_bytes() == straight
