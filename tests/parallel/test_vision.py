"""Pictures under several processes: the same numbers as in one, whoever happens to have pictures in a step.

An epoch goes through the ways in which two processes may have pictures or none. Adam with beta1 = 0 keeps the
gradient of a step in its checkpoint, and so small a rate that all steps begin from the same weights.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from finetune.data.plan import permutation
from finetune.folder import checkpoints
from finetune.train.run import train
from tests.parallel.conftest import BACK_ENDS, PREFIX, SHARED, difference, state_of
from tests.ranks import Ranks, run_ranks
from tests.seeing import draw, make_seeing
from tests.tiers import NIGHTLY, by_tier

Talk = tuple[int, int]
"""A conversation: letters of its question, and how many pictures stand before them."""

EPOCH: dict[str, list[Talk]] = {  # the longest goes to the first process
    "nobody has a picture": [(60, 0), (50, 0), (20, 0)],
    "one of two": [(90, 0), (9, 1), (5, 0)],
    "both, in one of two micro-batches and in all of one": [(60, 0), (60, 1), (50, 1)],
    "one, and the other has no conversation": [(20, 1)],
}
BUDGET = 96  # tokens of a micro-batch: a letter is one, a picture at most eight

LORA = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 1,
    "target_modules": "all-linear",
    "init_lora_weights": False,  # gradients of both halves from the first step on
}
METHODS: dict[str, tuple[dict[str, Any] | None, list[str] | None]] = {  # peft_config, freeze
    "lora": (LORA, None),
    "lora everywhere": (LORA, []),
    "lora, not in the tower": (LORA, ["tower"]),
    "prefix": (PREFIX, None),
    "full": (None, None),
    "full but vision": (None, ["vision"]),
    "full but the tower": (None, ["tower"]),
}
UNREACHED, TABLE = "lora on a table", ["q_proj", "position_embedding"]
ROUNDING = 2e-6  # relative, in float32
SAME = 1e-6  # relative, of weights and memory after four steps of another back end

Run = Callable[..., Path]


def record(number: int, talk: Talk, folder: Path) -> dict[str, Any]:
    letters, count = talk
    files = [
        draw(folder / f"{number}-{k}.png", 28 + 28 * k, 28, seed=10 * number + k).name for k in range(count)
    ]
    question = "".join("abcdefghij klm"[(7 * number + i * i) % 14] for i in range(letters))
    turns = [
        {"role": "user", "content": "<image>" * count + question},
        {"role": "assistant", "content": f"{question[-3:]} {number}"},
    ]
    return {"messages": turns, "images": files} if files else {"messages": turns}


def write(path: Path, talks: Sequence[Talk], order: Sequence[int]) -> None:
    """The talks as records; `order`: the line of each."""
    lines = [json.dumps(record(number, talk, path.parent)) for number, talk in enumerate(talks)]
    path.write_text(
        "".join(f"{line}\n" for _, line in sorted(zip(order, lines, strict=True))), encoding="utf-8"
    )


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA_DIR whose first epoch is EPOCH; and three questions to evaluate on, one of them with a picture."""
    folder = tmp_path_factory.mktemp("pictured")
    talks = [talk for step in EPOCH.values() for talk in step]
    write(folder / "train.jsonl", talks, permutation(len(talks), seed=42, epoch=0).tolist())
    write(folder / "dev.jsonl", [(20, 0), (30, 1), (12, 0)], range(3))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny checkpoint of a family."""
    folder = tmp_path_factory.mktemp("seeing")

    def model(family: str) -> Path:
        made = folder / family
        return made if made.exists() else make_seeing(made, family)

    return model


@pytest.fixture
def run_on(pictured: Path, models: Callable[[str], Path], tmp_path: Path) -> Run:
    """`run_on(back_end, method, output, resume, …, **training_args)` trains and returns the run folder."""

    def run(
        back_end: str,
        method: str,
        output: str = "out",
        resume: str | None = "no",
        *,
        family: str = "glm4v",
        attention: str = "flat",
        test: bool = False,
        **arguments: Any,
    ) -> Path:
        config = configured(tmp_path, back_end, method, output, attention, test, arguments)
        work = partial(train, pictured, str(models(family)), config, resume)
        run_ranks(work, 1 if back_end == "one process" else 2)
        return tmp_path / output

    return run


def configured(
    folder: Path,
    back_end: str,
    method: str,
    output: str = "out",
    attention: str = "flat",
    test: bool = False,
    arguments: dict[str, Any] | None = None,
) -> Path:
    """The YAML of a run."""
    peft, freeze = METHODS[method] if method != UNREACHED else (LORA | {"target_modules": TABLE}, [])
    content: dict[str, Any] = {
        "data_config": {"train_file": "train.jsonl", **({"test_file": "dev.jsonl"} if test else {})},
        "model_config": {"attention": attention, **({} if freeze is None else {"freeze": freeze})},
        "training_args": {
            "output_dir": str(folder / output),
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "adam_epsilon": 1e-3,  # with torch's 1e-8 Adam makes a step of what is only rounding
            "max_steps": len(EPOCH),
            "logging_steps": 1,
            **BACK_ENDS[back_end],
            **(arguments or {}),
        },
        "run": {"conversations_per_step": 3, "tokens_per_micro_batch": BUDGET},
    }
    if test:
        content["data_config"]["val_file"] = "dev.jsonl"
    if peft is not None:
        content["peft_config"] = peft
    YAML().dump(content, folder / f"{output}.yaml")
    return folder / f"{output}.yaml"


def gradients(run_on: Run, *cell: str, **options: Any) -> list[dict[str, Tensor]]:
    """Of each step of the epoch, by parameter."""
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "adam_beta1": 0.0, "max_grad_norm": 0.0}
    output = run_on(*cell, save_steps=1, **still, **options)
    states = [state_of(output / f"checkpoint-{step}") for step in range(1, len(EPOCH) + 1)]
    return [{name: t for name, t in state.items() if name.endswith("/exp_avg")} for state in states]


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The difference in what sees, or in what speaks, where that is more: each relative to its own length."""
    assert one.keys() == other.keys()
    worst = 0.0
    for sees in (True, False):
        mine, its = ({n: t for n, t in tensors.items() if ("visual" in n) is sees} for tensors in (one, other))
        if any(tensor.any() for tensor in mine.values()):
            worst = max(worst, difference(mine, its))
        else:  # of a step without pictures
            assert not any(tensor.any() for tensor in its.values())
    return worst


def prove(run_on: Run, back_ends: Sequence[str], cells: Iterator[tuple[str, str, str, bool]]) -> None:
    """Compare each cell (family, method, layout, checkpointing) with one process on stock attention."""
    table = []
    references: dict[tuple[str, str], list[dict[str, Tensor]]] = {}
    for family, method, layout, checkpointing in cells:
        if (family, method) not in references:
            references[family, method] = gradients(
                run_on, "one process", method, family=family, attention="single"
            )
        for back_end in back_ends:
            options = {"family": family, "attention": layout, "gradient_checkpointing": checkpointing}
            found = gradients(run_on, back_end, method, **options)
            steps = [apart(*pair) for pair in zip(references[family, method], found, strict=True)]
            cell = (back_end, family, method, layout, "on" if checkpointing else "off")
            table.append((max(steps), f"| {' | '.join(cell)} | {' | '.join(f'{s:.0e}' for s in steps)} |"))
    print("\n".join(line for _, line in table))  # pytest -rP shows it
    assert max(worst for worst, _ in table) < ROUNDING


@pytest.mark.parametrize(
    ("method", "back_end"),
    by_tier(
        itertools.product(["lora", "lora everywhere", "full", "prefix"], SHARED),
        [("lora everywhere", "ddp"), ("full", "fsdp2")],
    ),
)
def test_every_step_has_the_gradient_of_one_process(method: str, back_end: str, run_on: Run) -> None:
    checkpointing = method == "lora everywhere"
    prove(run_on, [back_end], iter([("glm4v", method, "flat", checkpointing)]))


@pytest.mark.parametrize("back_end", by_tier(SHARED, []))
def test_features_that_enter_between_layers_come_in_step_too(back_end: str, run_on: Run) -> None:
    prove(run_on, [back_end], iter([("qwen3_vl", "lora everywhere", "flat", False)]))


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["glm4v", "glm4v_moe", "qwen2_5_vl", "qwen3_vl"])
def test_every_cell_has_the_gradient_of_one_process(family: str, method: str, run_on: Run) -> None:
    cells = itertools.product([family], [method], ["flat", "single"], [False, True])
    prove(run_on, list(BACK_ENDS), (cell for cell in cells if method != "prefix" or not cell[-1]))


@pytest.mark.parametrize("back_end", by_tier(["zero-3", "fsdp2"], ["fsdp2"]))
def test_answers_and_losses_are_those_of_one_process_where_one_of_two_has_a_picture(
    back_end: str, run_on: Run
) -> None:
    options = {
        "max_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "predict_with_generate": True,
        "per_device_eval_batch_size": 1,
        "generation_config": {"max_new_tokens": 5},
    }
    told = []
    for name in ("one process", back_end):
        output = run_on(name, "lora everywhere", name, test=True, **options)
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
        told.append(((output / "predictions.jsonl").read_text(encoding="utf-8"), losses))
    (expected, losses), (answers, shared) = told
    assert answers == expected and len(answers.splitlines()) == 3
    assert shared == pytest.approx(losses, rel=1e-5)


@NIGHTLY
def test_a_run_that_changes_its_back_end_in_each_step_comes_to_the_same_end(run_on: Run, models: Any) -> None:
    straight = run_on("one process", "full", "straight") / "checkpoint-4"
    for step, back_end in enumerate(("zero-3", "fsdp2", "one process", "zero-3"), start=1):
        end = run_on(back_end, "full", "tour", "yes" if step > 1 else None, max_steps=step)
    end /= "checkpoint-4"
    assert difference(state_of(straight), state_of(end)) < SAME
    assert sorted(path.name for path in end.iterdir()) == sorted(path.name for path in straight.iterdir())
    assert difference(load_file(straight / "model.safetensors"), load_file(end / "model.safetensors")) < SAME
    seen = [logits(folder, end) for folder in (straight, end)]
    assert torch.allclose(*seen, atol=1e-5)
    assert not torch.allclose(seen[0], logits(models("glm4v"), end), atol=1e-3)


@torch.no_grad()
def logits(model: Path, processor: Path) -> Tensor:
    """Of a model in plain transformers that looks at a picture prepared as the files of `processor` say."""
    picture = torch.arange(3 * 56 * 56, dtype=torch.uint8).view(3, 56, 56).numpy()
    seen = AutoImageProcessor.from_pretrained(processor, backend="pil")(images=[picture], return_tensors="pt")
    sees = AutoModelForImageTextToText.from_pretrained(model).eval()
    tokens = int(seen["image_grid_thw"].prod()) // 4
    ids = torch.tensor([[70, *[sees.config.image_token_id] * tokens, 71]])
    kinds = (ids == sees.config.image_token_id).int()
    answer: Tensor = sees(input_ids=ids, mm_token_type_ids=kinds, **seen).logits
    return answer


@pytest.mark.parametrize("back_end", by_tier(["one process", "ddp", "zero-3"], []))
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    back_end: str, run_on: Run, pictured: Path, models: Callable[[str], Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_steps": 12, "save_steps": 1}
    straight = run_on(back_end, "lora everywhere", "straight", None, **options) / "checkpoint-12"
    config = configured(tmp_path, back_end, "lora everywhere", "killed", arguments=options)
    work = partial(train, pictured, str(models("glm4v")), config, None)
    with Ranks(work, 1 if back_end == "one process" else 2) as ranks:
        while not checkpoints(tmp_path / "killed") and not ranks.ended():
            pass
        ranks.kill(0)
        ranks.join_like_a_launcher()
    assert 0 < len(checkpoints(tmp_path / "killed")) < 12
    end = run_on(back_end, "lora everywhere", "killed", "yes", **options) / "checkpoint-12"
    names = ("training_state.safetensors", "adapter_model.safetensors")
    assert [(end / n).read_bytes() for n in names] == [(straight / n).read_bytes() for n in names]


@pytest.mark.parametrize("back_end", by_tier(BACK_ENDS, ["one process", "ddp"]))
def test_an_adapter_that_no_gradient_reaches_is_refused(back_end: str, run_on: Run) -> None:
    """The tower takes the table of its positions without calling the layer, and so the adapter on it."""
    with pytest.raises(
        AssertionError, match=r"position_embedding.*no gradient reached these trainable weights"
    ):
        run_on(back_end, UNREACHED)
