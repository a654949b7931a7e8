"""Saving and restoring a training: exact, by name, and one whole checkpoint at any time."""

import json
import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.optim import AdamW8bit
from torch import nn
from transformers.optimization import Adafactor, get_cosine_schedule_with_warmup

from finetune.errors import CheckpointError, ResumeMismatchError, StorageError
from finetune.folder import checkpoints, verify
from finetune.train.checkpoint import state as state_module
from finetune.train.checkpoint.holder import WholeHolder
from finetune.train.checkpoint.identity import Identity
from finetune.train.checkpoint.retain import retain
from finetune.train.checkpoint.rng import capture_rng, restore_rng
from finetune.train.checkpoint.save import restore, save_checkpoint, snapshot
from finetune.train.checkpoint.state import Best, TrainState

IDENTITY = Identity(
    config={"training_args.learning_rate": 0.01},
    data="a" * 64,
    template="t" * 64,
    base={"id": "org/base"},
    conversations_per_step=8,
    steps=10,
    environment={"world_size": 1, "threads": 1, "versions": {"torch": "2.13.0"}},
)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw_amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "torch_adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "adamw_8bit": lambda p: AdamW8bit(p, lr=0.01, min_8bit_size=1),
    "transformers_adafactor": lambda p: Adafactor(p, lr=0.01, scale_parameter=False, relative_step=False),
}


class Training:
    """A tiny training with everything that has a state: dropout, two groups, a schedule, a frozen layer."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0, width: int = 8, total: int = 10) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Linear(4, width), nn.Dropout(0.3), nn.LayerNorm(width), nn.Linear(width, 2)
        )
        self.model[0].bias.requires_grad_(False)
        self.named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        matrices = [p for p in self.named.values() if p.ndim > 1]
        vectors = [p for p in self.named.values() if p.ndim == 1]
        self.optimizer = OPTIMIZERS[optimizer]([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, 2, total)
        self.step = 0

    def run(self, steps: int) -> "Training":
        for _ in range(steps):
            self.model(torch.randn(3, 4)).square().sum().backward()
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.step += 1
        return self

    def state(self, **more: Any) -> TrainState:
        return snapshot(self.step, WholeHolder(self.named, self.optimizer), self.schedule, **more)

    def save(self, output: Path, **options: Any) -> Path:
        best = options.pop("best", None)
        state = self.state(counters={"tokens": 12}, best=best)
        return save_checkpoint(output, state, write_model, identity=IDENTITY, **options)

    def resume(self, checkpoint: Path) -> "Training":
        state = restore(checkpoint, WholeHolder(self.named, self.optimizer), self.optimizer, self.schedule)
        assert restore_rng(state.rng)
        self.step = state.step
        return self

    def bits(self) -> list[tuple[str, bytes]]:
        return [(name, p.detach().numpy().tobytes()) for name, p in self.model.named_parameters()]


def write_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "nested").mkdir()
    (folder / "nested" / "template.jinja").write_text("{{ x }}")
    (folder / "nested" / "template.jinja").chmod(0o600)


def content(checkpoint: Path) -> Mapping[str, bytes]:
    return {p.relative_to(checkpoint).as_posix(): p.read_bytes() for p in checkpoint.rglob("*") if p.is_file()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_training_is_bit_identical_to_the_uninterrupted_one(tmp_path: Path, optimizer: str) -> None:
    straight = Training(optimizer).run(9)
    checkpoint = Training(optimizer).run(4).save(tmp_path)
    resumed = Training(optimizer, seed=99)
    resumed.model[0].bias.data.copy_(straight.model[0].bias)  # frozen: it comes from the base model
    resumed.resume(checkpoint).run(5)
    assert resumed.bits() == straight.bits()
    assert resumed.schedule.get_last_lr() == straight.schedule.get_last_lr()


def test_eight_bit_moments_come_back_as_eight_bits(tmp_path: Path) -> None:
    training = Training("adamw_8bit").run(2)
    restored = Training("adamw_8bit", seed=1).resume(training.save(tmp_path)).optimizer.state
    moments = [memory["state1"] for memory in restored.values()]
    assert [moment.dtype for moment in moments] == [torch.uint8] * len(training.named)


def test_save_load_save_is_byte_equal(tmp_path: Path) -> None:
    best = Best("checkpoint-2", "eval_loss", 0.1)
    first = Training().run(3).save(tmp_path / "a", best=best)
    second = Training(seed=5).resume(first).save(tmp_path / "b", best=best)
    assert content(first) == content(second)


def test_a_checkpoint_says_what_it_is_and_everybody_may_read_it(tmp_path: Path) -> None:
    checkpoint = Training().run(3).save(tmp_path)
    manifest = verify(checkpoint)
    assert (checkpoint.name, manifest.step, manifest.world_size) == ("checkpoint-3", 3, 1)
    assert manifest.conversations_per_step == 8 and manifest.resumable
    assert manifest.parameters["3.weight"] == [2, 8] and "0.bias" not in manifest.parameters
    assert manifest.identity == IDENTITY.as_dict()
    assert set(manifest.files) == set(content(checkpoint)) - {"manifest.json"}
    assert {path.stat().st_mode & 0o777 for path in checkpoint.rglob("*") if path.is_file()} == {0o644}


def test_best_counters_and_position_come_back(tmp_path: Path) -> None:
    training = Training().run(3)
    best = Best("checkpoint-2", "eval_loss", 0.1 + 0.2)
    holder = WholeHolder(training.named, training.optimizer)
    state = restore(training.save(tmp_path, best=best), holder, training.optimizer, training.schedule)
    assert (state.step, state.counters, state.best) == (3, {"tokens": 12}, best)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    for name, data in content(Training().run(1).save(tmp_path)).items():
        assert Path(name).suffix in {".json", ".safetensors", ".jinja"}
        assert not data.startswith((b"PK", b"\x80"))


def test_large_states_are_split_and_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "SHARD_BYTES", 200)
    training = Training().run(3)
    checkpoint = training.save(tmp_path)
    assert len(list(checkpoint.glob("training_state*.safetensors"))) > 3
    assert Training(seed=7).resume(checkpoint).state().trainable.keys() == training.named.keys()
    assert Training(seed=7).resume(checkpoint).save(tmp_path / "b").exists()


def test_a_model_without_training_state_can_be_used_but_not_resumed(tmp_path: Path) -> None:
    training = Training().run(1)
    checkpoint = training.save(tmp_path, only_model=True)
    assert not verify(checkpoint).resumable
    with pytest.raises(CheckpointError, match=r"holds a model but no training state \(save_only_model: true\)"):
        training.resume(checkpoint)


def test_parameters_that_differ_are_named(tmp_path: Path) -> None:
    checkpoint = Training().run(1).save(tmp_path)
    with pytest.raises(ResumeMismatchError) as caught:
        Training(width=16).resume(checkpoint)
    assert "3.weight: [2, 8] float32 in the checkpoint, [2, 16] float32 in the model" in str(caught.value)

    fewer = Training()
    del fewer.named["3.bias"]
    with pytest.raises(ResumeMismatchError, match=r"3\.bias: in the checkpoint, not in the model"):
        fewer.resume(checkpoint)

    narrow = Training()
    narrow.model.to(torch.bfloat16)
    with pytest.raises(ResumeMismatchError, match=r"float32 in the checkpoint, \[2, 8\] bfloat16 in the model"):
        narrow.resume(checkpoint)


def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    checkpoint = Training().run(1).save(tmp_path)
    wide = Training(width=16)
    before = wide.bits()
    with pytest.raises(ResumeMismatchError):
        wide.resume(checkpoint)
    assert wide.bits() == before


def test_a_longer_schedule_gives_its_own_rate_from_the_next_step_on(tmp_path: Path) -> None:
    checkpoint = Training(total=4).run(4).save(tmp_path)
    longer = Training(total=8).resume(checkpoint)
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi / 3)))


def test_random_generators_of_another_rank_are_left_alone() -> None:
    torch.set_num_threads(1)
    saved = capture_rng(rank=0)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert not restore_rng(saved, rank=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert restore_rng(saved, rank=0)
    assert torch.equal(torch.rand(3), expected)


def test_every_generator_goes_on_where_it_stood() -> None:
    torch.set_num_threads(1)

    def draw() -> tuple[float, float, float, float]:
        return float(torch.rand(())), np.random.random(), np.random.normal(), random.random()

    np.random.normal()  # numpy keeps the second of a pair for the next call
    saved = capture_rng()
    expected = draw()
    assert draw() != expected
    assert restore_rng(saved)
    assert draw() == expected


def test_a_step_that_is_published_is_not_written_again(tmp_path: Path) -> None:
    training = Training().run(1)
    first = training.save(tmp_path)
    before = content(first)
    assert save_checkpoint(tmp_path, training.state(), explode, identity=IDENTITY) == first
    assert content(first) == before


def test_a_damaged_checkpoint_of_the_same_step_gives_way(tmp_path: Path) -> None:
    training = Training().run(1)
    checkpoint = training.save(tmp_path)
    (checkpoint / "adapter_config.json").write_text("[]")
    assert training.save(tmp_path) == checkpoint
    verify(checkpoint)
    assert len(list(tmp_path.glob("rejected-1-*"))) == 1


def explode(folder: Path) -> None:
    (folder / "half.bin").write_bytes(bytes(1000))
    raise RuntimeError("no model today")


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    training = Training().run(1)
    kept = training.save(tmp_path)
    training.run(1)
    with pytest.raises(RuntimeError, match="no model today"):
        save_checkpoint(tmp_path, training.state(), explode, identity=IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    verify(kept)


def test_a_save_that_will_not_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training().run(1)
    monkeypatch.setattr("finetune.disk.bytes_free", lambda folder: 1234)
    with pytest.raises(
        StorageError, match=r"checkpoint-1 needs 1\.0 MB .* and 1\.2 kB \(1234 bytes\) are free"
    ):
        training.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def names(output: Path) -> list[str]:
    return sorted((path.name for path in output.iterdir()), key=lambda name: int(name.split("-")[1]))


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, "1 2 3 4 5"),
        (5, None, "1 2 3 4 5"),
        (3, None, "3 4 5"),
        (3, 1, "1 4 5"),
        (3, 4, "3 4 5"),
        (2, 2, "2 5"),
        (2, 99, "4 5"),
        (1, None, "5"),
        (1, 5, "5"),
        (1, 2, "2 5"),
    ],
)
def test_retention_keeps_the_newest_and_the_best(
    tmp_path: Path, limit: int | None, best: int | None, left: str
) -> None:
    training = Training("sgd")
    for _ in range(5):
        training.run(1).save(tmp_path)
    retain(tmp_path, limit, f"checkpoint-{best}" if best else None)
    assert names(tmp_path) == [f"checkpoint-{step}" for step in left.split()]


def test_retention_counts_whole_checkpoints_only(tmp_path: Path) -> None:
    training = Training("sgd")
    for _ in range(4):
        training.run(1).save(tmp_path)
    (tmp_path / "checkpoint-3" / "training_state.json").unlink()
    retain(tmp_path, 2, None)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_the_new_checkpoint_is_committed_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training("sgd").run(1)
    training.save(tmp_path, limit=1)
    counts = []
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        counts.append(len(checkpoints(tmp_path)))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    training.run(1).save(tmp_path, limit=1)
    assert counts == [1, 2]
    assert names(tmp_path) == ["checkpoint-2"]


def test_the_scalars_are_readable_by_a_person(tmp_path: Path) -> None:
    checkpoint = Training("adamw").run(3).save(tmp_path)
    scalars = json.loads((checkpoint / "training_state.json").read_text())
    assert scalars["step"] == 3
    assert scalars["optimizer"]["groups"][0]["parameters"] == ["0.weight", "3.weight"]
    assert scalars["optimizer"]["groups"][0]["betas"] == [0.9, 0.999]


def test_a_schedule_made_of_a_partial_function_goes_round(tmp_path: Path) -> None:
    training = Training()
    training.schedule = torch.optim.lr_scheduler.LambdaLR(training.optimizer, partial(pow, 0.5))
    checkpoint = training.run(2).save(tmp_path)
    other = Training(seed=3)
    other.schedule = torch.optim.lr_scheduler.LambdaLR(other.optimizer, partial(pow, 0.5))
    assert other.resume(checkpoint).schedule.get_last_lr() == training.schedule.get_last_lr()
