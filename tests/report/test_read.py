"""Reading a run folder, and text that becomes markup."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.redaction import without_secrets
from finetune.report.markup import Html, element
from finetune.report.read import curve, number, read_run_files, spread


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
    assert curve(lines, "loss") == [(1.0, 3.0), (2.0, None)]


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
