"""Memory that really runs out: a limit on the address space, a little above what a run has when loaded."""

import ctypes
import gc
import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.runs import METHODS, Prepare, Run, at_call, numbers
from tests.tiers import by_tier
from tests.train.conftest import WORDS, Configure

BIG = 16_000
"""Tokens: all of a step at once."""
ROOM = 32 << 20
"""Bytes that a run may take once it is loaded: less than half of what BIG needs, enough for a quarter of it."""


def limit_memory(room: int) -> None:
    """Leave so many bytes of address space; what earlier tests left free inside the heap is taken first."""
    gc.collect()  # models of earlier tests, let go in the middle of the run, would be room for it
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    torch.optim.AdamW([weight]).step()  # torch loads what only this needs, some of it tens of megabytes
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
    for power in range(28, 15, -1):
        while library.malloc(1 << power):
            pass
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))


def limited(room: int = ROOM) -> Prepare:
    return at_call("finetune.train.loop.Loop", "run", 1, lambda: limit_memory(room))


@pytest.fixture
def long_data(data: Path) -> Path:
    """12 conversations of 700 to 1,200 tokens; a step holds all of them."""
    rows = []
    for i in range(12):
        words = [WORDS[(i * 5 + k) % len(WORDS)] for k in range(80 + 4 * i)]
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": f"say {' '.join(words)}"},
                    {"role": "assistant", "content": " ".join(reversed(words))},
                ]
            }
        )
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return data


Make = Callable[..., Run]


@pytest.fixture
def make(small: Path, long_data: Path, configure: Configure) -> Make:
    """A run of two steps; `run`: that section of its YAML."""

    def run(name: str, peft: dict[str, Any] | None, **section: Any) -> Run:
        config = configure(
            peft, name, max_steps=2, per_device_train_batch_size=12, gradient_accumulation_steps=1
        )
        config.write_text(f"{config.read_text()}max_input_length: 4096\nrun: {json.dumps(section)}\n")
        return Run(long_data, small, config, long_data.parent / name)

    return run


def trained(run: Run) -> dict[str, torch.Tensor]:
    """Everything that a training goes on from, the random state included."""
    return load_file(run.output / "checkpoint-2" / "training_state.safetensors")


@pytest.mark.parametrize("method", by_tier(METHODS, ["lora"]))
def test_a_run_that_fits_itself_to_memory_ends_as_if_its_batches_had_been_small_from_the_start(
    method: str, make: Make
) -> None:
    peft = METHODS[method]  # LoRA's dropout draws: what a failed attempt drew must not count
    fits = make("fits", peft, tokens_per_micro_batch=BIG, auto_fit=True)
    child = fits.start(prepare=limited())
    assert child.wait() == 0, child.said[-3000:]
    warnings = [line for line in child.said.splitlines() if line.startswith("warning: out of memory")]
    budgets = [int(re.search(r"auto_fit: (\d+) tokens per micro-batch", line)[1]) for line in warnings]
    assert budgets and all(
        after <= before // 2 for before, after in zip([BIG, *budgets], budgets, strict=False)
    )
    assert all("of step 1 at once" in line for line in warnings), "from then on, not in every step"
    small = make("small", peft, tokens_per_micro_batch=budgets[-1]).finished()
    ended, wanted = trained(fits), trained(small)
    assert ended.keys() == wanted.keys()
    assert [name for name in ended if not ended[name].equal(wanted[name])] == []
    assert numbers(fits.output) == numbers(small.output)
    print(
        f"{method}: {len(warnings)} times out of memory, then {budgets[-1]} tokens at once, to the same bytes"
    )


def test_a_step_that_runs_out_of_memory_half_way_is_computed_anew_from_its_beginning(make: Make) -> None:
    """What its first micro-batch had added to the gradient must not count twice."""
    fits = make("fits", METHODS["lora"], tokens_per_micro_batch=BIG // 4, auto_fit=True)
    second = at_call("finetune.train.parallel.replicated.Replicated", "accumulate", 2, run_out)
    assert fits.start(prepare=second).wait() == 0, fits.log.read_text()[-3000:]
    assert fits.log.read_text().count(f"auto_fit: {BIG // 8} tokens per micro-batch") == 1
    small = make("small", METHODS["lora"], tokens_per_micro_batch=BIG // 8).finished()
    ended, wanted = trained(fits), trained(small)
    assert [name for name in wanted if not ended[name].equal(wanted[name])] == []


@pytest.mark.nightly
def test_a_run_that_fits_itself_takes_the_steps_of_one_that_had_all_memory(make: Make) -> None:
    peft = {**METHODS["lora"], "lora_dropout": 0.0}
    fits = make("fits", peft, tokens_per_micro_batch=BIG, auto_fit=True)
    assert fits.start(prepare=limited()).wait() == 0
    assert "auto_fit: " in fits.log.read_text()
    whole = make("whole", peft, tokens_per_micro_batch=BIG).finished()
    ended, wanted = trained(fits), trained(whole)
    for name in (name for name in wanted if name.startswith("trainable/")):
        assert (ended[name] - wanted[name]).abs().max() <= 1e-6, name


def test_without_auto_fit_the_message_names_tokens_rows_and_a_change_that_helps(make: Make) -> None:
    stops = make("stops", METHODS["lora"], tokens_per_micro_batch=BIG)
    # Needed are 85 MB for all and 45 for half; what a heap has left free differs by some tens.
    child = stops.start(prepare=limited(50 << 20))
    assert child.wait() == 10, child.said[-3000:]
    error = child.said[child.said.rindex("error: ") :]
    told = re.search(
        r"out of memory computing (\d+) tokens of step 1 at once \(.*train\.jsonl:\d+, .* and \d+ more\); "
        r"set run\.tokens_per_micro_batch: (\d+), or run\.auto_fit: true",
        error,
    )
    assert told and int(told[1]) // 2 == int(told[2]), error
    assert "Traceback" not in child.said
    assert json.loads((stops.output / "run.json").read_text())["exit_code"] == 10
    helped = make("helped", METHODS["lora"], tokens_per_micro_batch=int(told[2]))
    assert helped.start(prepare=limited(70 << 20)).wait() == 0


@pytest.mark.parametrize(
    ("method", "advice", "auto_fit"),
    [
        ("lora", "set training_args.gradient_checkpointing: true", False),
        ("full", "set training_args.gradient_checkpointing: true", True),
        ("prefix", "set a smaller max_input_length, or model_config.quantization: nf4", False),
    ],
    ids=["lora", "full", "prefix"],
)
def test_a_conversation_that_does_not_fit_alone_is_named_with_what_its_method_allows(
    method: str, advice: str, auto_fit: bool, make: Make
) -> None:
    run = make("alone", METHODS[method], tokens_per_micro_batch=1, auto_fit=auto_fit)

    rows = (run.data / "train.jsonl").read_text().splitlines()
    turns = [message["content"] for row in rows for message in json.loads(row)["messages"]]
    long = [{"role": "user", "content": " ".join(turns[::2])}, {"role": "assistant", "content": turns[1]}]
    (run.data / "train.jsonl").write_text(json.dumps({"messages": long}) + "\n")
    run.config.write_text(run.config.read_text().replace("4096", "40960"))
    child = run.start(prepare=limited(20 << 20))
    assert child.wait() == 10, child.said[-3000:]
    error = child.said[child.said.rindex("error: ") :]
    assert re.search(r"computing \d+ tokens of step 1 at once \(.*train\.jsonl:1\); ", error), error
    assert advice in error and "auto_fit" not in error


def run_out() -> None:
    """As if there were no memory at this instant."""
    torch.empty(1 << 50)


@pytest.mark.nightly
def test_what_a_step_has_computed_before_memory_runs_out_does_not_count_twice(make: Make) -> None:
    fits, small = (
        make(name, METHODS["lora"], tokens_per_micro_batch=tokens, auto_fit=True)
        for name, tokens in (("fits", 4000), ("small", 2000))
    )
    child = fits.start(prepare=at_call("finetune.train.loop", "collate", 2, run_out))
    assert child.wait() == 0, child.said[-3000:]
    assert child.said.count("auto_fit: 2000 tokens per micro-batch") == 1
    small.finished()
    ended, wanted = trained(fits), trained(small)
    assert [name for name in wanted if not ended[name].equal(wanted[name])] == []


def test_an_update_that_runs_out_of_memory_is_not_repeated(make: Make) -> None:
    """A part of the weights may have been updated: the step is lost, what was saved before is not."""
    run = make("update", METHODS["full"], tokens_per_micro_batch=2000, auto_fit=True)
    child = run.start(prepare=at_call("finetune.train.parallel.replicated", "apply_if_finite", 2, run_out))
    assert child.wait() == 10, child.said[-3000:]
    assert "out of memory updating the weights after step 2; set training_args.optim: adamw_8bit" in child.said
    assert [line["step"] for line in numbers(run.output)] == [1]


def test_a_page_that_memory_does_not_hold_either_does_not_hide_why_the_run_ended(make: Make) -> None:
    run = make("page", METHODS["lora"], tokens_per_micro_batch=1)

    def no_more() -> None:
        at_call("finetune.train.run", "write_report", 1, lambda: [0] * (1 << 60))()
        run_out()

    child = run.start(prepare=at_call("finetune.train.loop", "collate", 2, no_more))
    assert child.wait() == 10, child.said[-3000:]
    assert "error: out of memory computing" in child.said


def test_memory_that_runs_out_in_python_itself_is_told_alike(make: Make) -> None:
    run = make("python", METHODS["lora"], tokens_per_micro_batch=2000)
    child = run.start(prepare=at_call("finetune.train.loop", "collate", 2, lambda: [0] * (1 << 60)))
    assert child.wait() == 10, child.said[-3000:]
    assert re.search(r"error: out of memory computing \d+ tokens of step 1 at once", child.said)


def test_several_processes_do_not_fit_themselves(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("two", METHODS["lora"], auto_fit=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    child = run.start()
    assert child.wait() == 2
    assert "run.auto_fit: works with one process, there are 2" in child.said
    assert not run.output.exists()
