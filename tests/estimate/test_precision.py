"""In what dtype a model is computed, by processor, checkpoint and configuration."""

from pathlib import Path
from typing import Any

import pytest

from finetune.estimate.choose import choose_setup
from finetune.estimate.memory import memory_of
from finetune.estimate.precision import precision_of
from finetune.estimate.processor import Processor, keep, kept
from finetune.estimate.setup import Setup
from finetune.estimate.shape import Shape, Weight, read_shape
from tests.estimate.test_choose import WORK
from tests.estimate.test_counts import METHODS, config_of

SLOW, FAST = {"BF16": 9.0, "F16": 12.0}, {"BF16": 0.5, "F16": 1.4}


@pytest.mark.parametrize(
    ("stored", "asked", "slowdown", "computed", "said"),
    [
        ("BF16", "auto", SLOW, "F32", "computing in float32: this processor multiplies bfloat16 matrices 9.0"),
        ("F16", "auto", SLOW, "F32", "computing in float32: this processor multiplies float16 matrices 12.0"),
        ("BF16", "auto", FAST, "BF16", None),
        ("F16", "auto", FAST, "F16", None),
        ("BF16", "auto", {}, "BF16", None),
        ("F32", "auto", SLOW, "F32", None),
        ("BF16", "float32", SLOW, "F32", None),
        ("BF16", "bfloat16", FAST, "BF16", None),
        ("BF16", "bfloat16", SLOW, "BF16", "model_config.dtype: bfloat16: this processor multiplies bfloat16"),
        ("F32", "bfloat16", SLOW, "BF16", "9.0 times slower than float32 ones"),
    ],
)  # fmt: skip
def test_products_are_in_float32_where_the_processor_is_clearly_faster_in_it(
    stored: str, asked: str, slowdown: dict[str, float], computed: str, said: str | None
) -> None:
    precision = precision_of(stored, asked, slowdown)
    assert precision.computed == precision.held == computed
    line = precision.line()
    assert line is None if said is None else said in (line or "")


@pytest.mark.parametrize(
    ("begun_in", "slowdown", "computed", "said"),
    [
        ("float32", FAST, "F32", None),
        ("float32", SLOW, "F32", "computing in float32"),
        ("bfloat16", SLOW, "BF16", "the run was begun in bfloat16: this processor multiplies"),
        ("as stored", SLOW, "BF16", "the run was begun in bfloat16: this processor multiplies"),
        ("bfloat16", FAST, "BF16", None),
    ],
)
def test_a_run_goes_on_in_the_dtype_it_was_begun_in(
    begun_in: str, slowdown: dict[str, float], computed: str, said: str | None
) -> None:
    precision = precision_of("BF16", "auto", slowdown, begun_in=begun_in)
    assert precision.computed == computed
    line = precision.line()
    assert line is None if said is None else said in (line or "")


@pytest.mark.parametrize(
    ("sections", "ranks", "demanded"),
    [
        ({"run": {"master_weights": "split"}}, 1, "run.master_weights: split"),
        ({"training_args": {"deepspeed": "ds_zero_2.json"}}, 2, "training_args.deepspeed"),
        ({"training_args": {"fsdp": True}}, 2, "training_args.fsdp"),
        ({"training_args": {"fsdp": True}}, 1, None),
    ],
)
def test_who_shares_or_keeps_narrow_weights_computes_in_their_dtype(
    sections: dict[str, Any], ranks: int, demanded: str | None, small: Path
) -> None:
    config = config_of(None, **sections)
    setup = Setup.of(config, bfloat16(small), device="cpu", ranks=ranks, processor=Processor(SLOW))
    assert (setup.precision.demanded, setup.precision.widened) == (demanded, demanded is None)


def bfloat16(small: Path) -> Shape:
    """The small model's shape, as if it were stored in bfloat16."""
    shape = read_shape(small)
    weights = {name: Weight(weight.shape, "BF16") for name, weight in shape.weights.items()}
    return Shape(**{**vars(shape), "weights": weights})


def test_weights_stay_narrow_in_memory_where_wide_ones_do_not_fit(small: Path) -> None:
    config = config_of(METHODS["lora"])
    setup = Setup.of(config, bfloat16(small), device="cpu", ranks=1, processor=Processor(SLOW))
    narrow = setup.by_layer
    assert narrow is not None and (setup.stored, narrow.stored) == ("F32", "BF16")
    assert (narrow.compute_bytes, narrow.residual_bytes, narrow.autocast) == (4, 4, False)
    matrices = sum(a * b for a, b in setup.shape.linears.values())
    one, other = (memory_of(each, WORK.load(400)).parts for each in (setup, narrow))
    assert one["weights"] - other["weights"] == 2 * matrices
    assert other["working copies"] == 4 * setup.shape.vocabulary * setup.shape.hidden
    needed = memory_of(setup, WORK.load(400)).total
    for free, by_layer in ((int(needed / 0.9) + 1, False), (int(needed / 0.9) - 10, True)):
        chosen, _ = choose_setup(setup, WORK, free, tokens=400, may_recompute=True)
        assert chosen.precision.by_layer is by_layer


def test_weights_that_learn_are_float32_and_not_widened_by_layer(small: Path) -> None:
    setup = Setup.of(config_of(None), bfloat16(small), device="cpu", ranks=1, processor=Processor(SLOW))
    assert setup.by_layer is None and not setup.autocast and setup.compute_bytes == 4


def test_the_figures_of_a_processor_are_kept_for_the_limits_that_are_set_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert kept() is None
    keep(Processor(SLOW, 123))
    assert kept() == Processor(SLOW, 123)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert kept() is None


def test_figures_that_cannot_be_read_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep(Processor(SLOW, 123))
    (file,) = (tmp_path / "finetune" / "processor").iterdir()
    file.write_text("{")
    assert kept() is None
