"""The loss on a text that must not be forgotten is the same whoever computes it, and spoils no gradient."""

import itertools
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.parallel.conftest import METHODS, Train, difference, state_of
from tests.tiers import by_tier


@pytest.mark.parametrize(
    ("method", "back_end"),
    by_tier(
        itertools.product(["lora", "prefix"], ["ddp", "zero-3", "fsdp2"]),
        [("prefix", "fsdp2")],
    ),
)
def test_processes_come_to_the_figure_of_one(
    method: str,
    back_end: str,
    train_on: Train,
    ragged: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if method == "lora":  # one that the base differs from at the start
        monkeypatch.setitem(METHODS, "lora", {**(METHODS["lora"] or {}), "init_lora_weights": False})
    (ragged / "retain.txt").write_text("rain bird stone river mill")
    _always(monkeypatch, "evaluation", {"retain_file": "retain.txt"})
    folders = [
        train_on(name, method, name.replace(" ", "-"), max_steps=2) for name in ("one process", back_end)
    ]
    alone, together = (json.loads((folder / "run.json").read_text())["retain"] for folder in folders)
    assert together["loss_before"] == pytest.approx(alone["loss_before"], rel=1e-5)
    assert together["loss_after"] == pytest.approx(alone["loss_after"], rel=1e-5)
    assert difference(*(state_of(folder / "checkpoint-2") for folder in folders)) < 1e-4


def _always(monkeypatch: pytest.MonkeyPatch, section: str, values: dict[str, str]) -> None:
    """Add a section to every YAML that is written."""
    dump = YAML.dump
    monkeypatch.setattr(
        YAML, "dump", lambda self, content, path: dump(self, {**content, section: values}, path)
    )
