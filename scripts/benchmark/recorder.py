"""What a peer's Trainer did: one counter for all of them. Runs in the peer's own process and venv."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback

STEPS_FILE = "steps.jsonl"
LOG_FILE = "log.json"
BATCH_FILE = "batch.safetensors"
WEIGHTS_FILE = "weights.safetensors"
GRADIENTS_FILE = "gradients.safetensors"
_OF_A_BATCH = ("input_ids", "labels", "attention_mask", "position_ids")


@dataclass(frozen=True, slots=True)
class Job:
    """What a peer is to do; `messages` and `rows` are the same conversations. `check`: in float32, one step."""

    model: str
    adapter: str | None
    virtual_tokens: int | None
    rows: str
    messages: str
    output: str
    device: str
    steps: int
    batch: int
    max_length: int
    learning_rate: float
    check: bool
    flags: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> "Job":
        return cls(**json.loads(Path(path).read_text()))


def count(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens that are no padding, and those of them that are predicted, of one forward."""
    ids, mask, labels = inputs["input_ids"], inputs.get("attention_mask"), inputs["labels"]
    tokens = int(mask.sum()) if isinstance(mask, torch.Tensor) and mask.dim() == 2 else ids.numel()
    return tokens, int((labels[..., 1:] != -100).sum())


class Recorder(TrainerCallback):
    """Writes a line at the end of every optimizer step; for a check the first batch and gradients too."""

    def __init__(self, output: Path, *, check: bool) -> None:
        self._output, self._check = output, check
        self._tokens = self._supervised = 0
        output.mkdir(parents=True, exist_ok=True)
        self._lines = (output / STEPS_FILE).open("w", encoding="utf-8")

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model: nn.Module = given["model"]
        model.register_forward_pre_hook(self._look, with_kwargs=True)
        if self._check:
            learns = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            save_file(learns, self._output / WEIGHTS_FILE)

    def _look(self, module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        tokens, supervised = count(inputs)
        self._tokens += tokens
        self._supervised += supervised
        if self._check:
            kept = {name: inputs[name] for name in _OF_A_BATCH if isinstance(inputs.get(name), torch.Tensor)}
            save_file({name: tensor.contiguous() for name, tensor in kept.items()}, self._output / BATCH_FILE)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not self._check:
            return
        named = given["model"].named_parameters()
        gradients = {name: p.grad.float().contiguous() for name, p in named if p.grad is not None}
        save_file(gradients, self._output / GRADIENTS_FILE)
        self._check = False

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        line = {"step": state.global_step, "tokens": self._tokens, "supervised_tokens": self._supervised}
        self._tokens = self._supervised = 0
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        log: dict[str, float] = given["logs"]
        path = self._output / LOG_FILE
        if "loss" in log and not path.exists():
            path.write_text(
                json.dumps({name: float(log[name]) for name in ("loss", "grad_norm") if name in log})
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if torch.cuda.is_available():
            path = self._output / LOG_FILE
            peak = {"peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9}
            path.write_text(json.dumps(json.loads(path.read_text()) | peak))
