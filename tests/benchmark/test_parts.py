"""The parts of scripts/benchmark that only count: by hand, on figures small enough to check by eye."""

import sys
from pathlib import Path

import pytest
import torch

from scripts.benchmark.equality import conversations, difference
from scripts.benchmark.harness import Outcome, watched
from scripts.benchmark.ladder import rungs
from scripts.benchmark.limit import flops
from scripts.benchmark.model import skeleton
from scripts.benchmark.recorder import count
from scripts.benchmark.shapes import SHAPES, Shape
from scripts.benchmark.table import as_markdown, summarise
from scripts.benchmark.tools import Ours

IGNORED = -100


def tensors(**rows: list[list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values) for name, values in rows.items()}


PADDED = tensors(
    input_ids=[[5, 6, 7, 8], [5, 9, 0, 0]],
    labels=[[IGNORED, IGNORED, 7, 8], [IGNORED, 9, IGNORED, IGNORED]],
    attention_mask=[[1, 1, 1, 1], [1, 1, 0, 0]],
)
PACKED = tensors(
    input_ids=[[5, 6, 7, 8, 5, 9]],
    labels=[[IGNORED, IGNORED, 7, 8, IGNORED, 9]],
    position_ids=[[0, 1, 2, 3, 0, 1]],
)
# A tool that asks for the last logits only cuts the labels in front of them off.
CUT = PADDED | tensors(labels=[[IGNORED, 7, 8], [9, IGNORED, IGNORED]])


def test_padding_is_not_counted() -> None:
    assert count(PADDED) == (6, 3)
    assert count(PACKED) == (6, 3)


def test_the_first_token_of_a_row_is_never_predicted() -> None:
    assert count(tensors(input_ids=[[5, 6]], labels=[[5, 6]])) == (2, 1)


@pytest.mark.parametrize("batch", [PADDED, PACKED, CUT], ids=["padded", "packed", "labels cut"])
def test_a_batch_falls_into_its_conversations(batch: dict[str, torch.Tensor]) -> None:
    found = [(example.input_ids.tolist(), example.loss_mask.tolist()) for example in conversations(batch)]
    assert found == [([5, 6, 7, 8], [False, False, True, True]), ([5, 9], [False, True])]


def test_gradients_differ_by_their_distance_relative_to_ours() -> None:
    ours = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert difference(ours, ours) == 0
    assert difference(ours, ours | {"b": torch.tensor([4.5])}) == pytest.approx(0.1)


def test_gradients_of_other_parameters_are_no_agreement() -> None:
    with pytest.raises(ValueError, match="other parameters learn: b"):
        difference({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})


def test_operations_are_those_of_the_formula() -> None:
    shape = Shape(hidden=4, layers=1, heads=2, kv_heads=1, ffn=3, vocab=10)
    assert shape.layer_parameters == 16 + 8 + 8 + 16 + 24 + 12
    # 2 tokens, 1 of them supervised: 4 x (84 x 2 + 40 x 1), and attention 6 x 4 x 2 x 3.
    assert flops(shape, [(1, 2)], "lora") == 832 + 144
    assert flops(shape, [(1, 2)], "full") == 1248 + 144


def test_a_shape_counts_the_matrices_of_the_model_it_makes(small: Path) -> None:
    from transformers import AutoTokenizer

    shape = SHAPES["tiny"]
    weights = skeleton(AutoTokenizer.from_pretrained(small), shape).state_dict()
    matrices = {name: w.numel() for name, w in weights.items() if ".layers." in name and w.dim() == 2}
    assert sum(matrices.values()) == shape.layer_parameters
    assert weights["lm_head.weight"].numel() == shape.head_parameters


def outcome(tool: str, seconds: float) -> Outcome:
    """Four steps of 100 tokens, the last two of which take `seconds` together."""
    ends = (5.0, 9.0, 9.0 + seconds / 2, 9.0 + seconds)
    return Outcome(tool, ends, (100,) * 4, (50,) * 4, 2_000_000_000, 1.0, 1.0)


def test_the_first_two_steps_are_start_up_and_warm_up() -> None:
    run = outcome("finetune", 4.0)
    assert (run.start_up, run.tokens_per_second, run.supervised_per_second) == (5.0, 50, 25)


def test_ratios_are_taken_round_by_round() -> None:
    runs = [outcome("finetune", 1.0), outcome("peer", 2.0), outcome("finetune", 10.0), outcome("peer", 30.0)]
    ours, peer = summarise(runs, {"finetune": "as it is", "peer": "its way"}, {"peer": "yes"}, 2.0, 1_000.0)
    assert (ours.ratio, peer.ratio, peer.agrees) == (1.0, 2.5, "yes")
    assert ours.tokens_per_second == (200 + 20) / 2
    assert ours.share == pytest.approx(110 * 2 / 1_000)


def test_a_table_has_a_line_for_each_tool() -> None:
    lines = summarise(
        [outcome("finetune", 1.0), outcome("peer", 4.0)], {"finetune": "", "peer": ""}, {}, 1.0, 400.0
    )
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in as_markdown(lines).splitlines()]
    assert rows[2] == ["finetune", "", "200", "100", "1.00", "50 %", "2.00", "5.0", "-"]
    assert rows[3] == ["peer", "", "50", "25", "4.00", "12 %", "2.00", "5.0", "-"]
    assert len(set(map(len, as_markdown(lines).splitlines()))) == 1


def test_a_process_is_watched_from_outside(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    script = (
        f"import time; file = open({str(lines)!r}, 'w', 1)\n"
        "file.write('1\\n'); time.sleep(0.1); file.write('2\\n'); exit(3)"
    )
    ends, status, peak = watched([sys.executable, "-c", script], lines, tmp_path / "log")
    assert status == 3
    assert len(ends) == 2
    assert ends[1] - ends[0] > 0.05
    # Its own memory, not that of this process, whose child it is and which has loaded torch.
    assert 1_000_000 < peak < 60_000_000


def test_processor_time_stands_still_while_a_process_sleeps(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    script = (
        f"import time; file = open({str(lines)!r}, 'w', 1)\n"
        "file.write('1\\n'); time.sleep(0.3); file.write('2\\n'); time.sleep(0.3)"
    )
    ends, status, _ = watched([sys.executable, "-c", script], lines, tmp_path / "log", cpu_time=True)
    assert status == 0
    assert 0 <= ends[1] - ends[0] < 0.15


def test_the_first_rung_of_the_ladder_switches_nothing_off() -> None:
    first, *others = rungs()
    assert isinstance(first, Ours) and first.overrides == ()
    assert all(rung.overrides for rung in others)


def test_every_rung_is_a_configuration(configure, data: Path) -> None:  # type: ignore[no-untyped-def]
    from finetune.config.load import load_config

    for rung in rungs():
        load_config(configure(None), rung.overrides, data_dir=data)
