"""Reading a run folder, and text that becomes markup."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finetune.redaction import without_secrets
from finetune.report.markup import Html, element
from finetune.report.metrics import Metrics, number
from finetune.report.page import write_report
from finetune.report.read import read_run_files, spread


def test_predictions_are_picked_evenly_from_the_worst_to_the_best(tmp_path: Path) -> None:
    scores = [float(7 * i % 100) for i in range(100)]
    lines = [json.dumps({"turn": i, "scores": {"rouge-l": score}}) + "\n" for i, score in enumerate(scores)]
    (tmp_path / "predictions.jsonl").write_text("".join(lines))
    files = read_run_files(tmp_path)
    picked = [prediction["scores"]["rouge-l"] for prediction in files.predictions]
    assert files.prediction_count == 100
    assert picked == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]


def test_a_step_that_was_logged_twice_counts_as_it_was_logged_last() -> None:
    lines: list[dict[str, Any]] = [{"step": 2, "loss": 9}, {"step": 1, "loss": 3}, {"step": 2, "loss": None}]
    metrics = Metrics()
    for line in lines:
        metrics.add(line)
    assert metrics.curve("loss") == [(1.0, 3.0), (2.0, None)]
    assert (metrics.last_step, metrics.values("loss"), metrics.names) == (2.0, [3.0], ["loss", "step"])


def test_a_long_run_makes_a_small_page_in_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            loss, score = (5 if step == 7777 else 1), (0.25 if step == 4321 else 2)
            file.write(f'{{"step": {step}, "loss": {loss}, "seconds": 0.5}}\n')
            file.write(f'{{"step": {step}, "eval_loss": {score}, "eval_rouge-l": {step % 9}}}\n')
    tracemalloc.start()
    files = read_run_files(tmp_path)
    assert tracemalloc.get_traced_memory()[0] < 20_000 * 6 * 20  # values, with room for growing
    tracemalloc.stop()
    page = write_report(tmp_path).read_text()
    assert len(page) < 1_000_000
    assert "best eval loss" in page and "at step 4,321" in page and "2 h 46 min" in page
    assert files.metrics.curve("loss")[7776] == (7777.0, 5.0)


def test_spread_keeps_the_ends() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (None, None), (float("nan"), None), (10**400, None)],
)
def test_only_finite_numbers_are_numbers(value: object, expected: float | None) -> None:
    assert number(value) == expected


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "1 < 2 & 3")
    assert (
        element("p", inner, "<i>", title='"x"')
        == '<p title="&quot;x&quot;"><b>1 &lt; 2 &amp; 3</b>&lt;i&gt;</p>'
    )
    assert isinstance(inner, Html)


def test_attributes_of_none_are_left_out_and_names_may_end_in_an_underscore() -> None:
    assert element("td", class_="number", id=None, aria_label="x", width=1.50) == (
        '<td class="number" aria-label="x" width="1.5"></td>'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"hub_token": "abc"}, {"hub_token": "(hidden)"}),
        ({"a": [{"api_key": "abc"}]}, {"a": [{"api_key": "(hidden)"}]}),
        ({"pad_token": "<|endoftext|>"}, {"pad_token": "<|endoftext|>"}),
        ({"hub_token": None, "max_new_tokens": 5}, {"hub_token": None, "max_new_tokens": 5}),
        ("Authorization: Bearer abc.def", "Authorization: Bearer (hidden)"),
        ("see https://user:pass@host/x", "see https://(hidden)@host/x"),
        ("--hub_token abcdef", "--hub_token (hidden)"),
        ("tokenizer=fast tokens: 7", "tokenizer=fast tokens: 7"),
        ("the token is invalid", "the token is invalid"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(value: object, shown: object) -> None:
    assert without_secrets(value) == shown
