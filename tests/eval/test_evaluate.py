"""Evaluation on a model that knows every answer, and on one that knows none."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message, ToolCall
from finetune.data.dataset import Sample
from finetune.eval import evaluate as module
from finetune.eval.evaluate import ask, evaluate
from finetune.eval.loss import reference_loss
from finetune.eval.report import Loss, Report
from finetune.infer.engine import Sampling
from finetune.infer.hf import HFEngine

LONG = Sampling(max_new_tokens=60)


@pytest.fixture(scope="module")
def engine(taught: Path) -> HFEngine:
    from transformers import GlmForCausalLM

    return HFEngine(GlmForCausalLM.from_pretrained(taught), load_template(taught))


@pytest.fixture(scope="module")
def samples(known: Sequence[Conversation]) -> list[Sample]:
    return [Sample(conversation, f"dev.jsonl:{line}") for line, conversation in enumerate(known, start=1)]


@pytest.fixture(scope="module")
def rows_and_report(engine: HFEngine, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("evaluated") / "predictions.jsonl"
    report = evaluate(engine, samples, sampling=LONG, batch_size=3, predictions_path=path)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], report


def test_a_model_that_knows_every_answer_has_the_highest_scores(rows_and_report) -> None:
    _, report = rows_and_report
    assert report.scores == {"rouge-1": 100.0, "rouge-2": 100.0, "rouge-l": 100.0, "bleu-4": 1.0}
    assert (report.text_turns, report.tool_calls) == (4, 1)
    assert (report.calls_parsed, report.calls_named, report.calls_right) == (1, 1, 1)
    assert (report.skipped, report.empty, report.cut_off) == ({}, 0, 0)


def test_there_is_one_row_per_assistant_turn_in_the_order_of_the_file(rows_and_report) -> None:
    rows, _ = rows_and_report
    assert [(row["origin"], row["turn"]) for row in rows] == [
        ("dev.jsonl:1", 1),
        ("dev.jsonl:2", 1),
        ("dev.jsonl:3", 1),
        ("dev.jsonl:4", 1),
        ("dev.jsonl:4", 3),
    ]


def test_a_row_tells_prompt_reference_prediction_and_scores(rows_and_report) -> None:
    rows, _ = rows_and_report
    assert rows[1] == {
        "origin": "dev.jsonl:2",
        "turn": 1,
        "kind": "text",
        "prompt": "[gMASK]<sop><|user|>\nWhere is the river?<|assistant|>",
        "reference": "Behind the old mill.",
        "prediction": "Behind the old mill.",
        "finish": "stop",
        "scores": {"rouge-1": 100.0, "rouge-2": 100.0, "rouge-l": 100.0, "bleu-4": 1.0},
        "tool_call": None,
    }


def test_a_tool_call_is_marked_as_a_call_and_has_no_text_scores(rows_and_report) -> None:
    rows, _ = rows_and_report
    call = rows[3]
    assert (call["kind"], call["scores"]) == ("tool_call", {})
    assert call["tool_call"] == {"name": True, "arguments": True, "parsed": True}
    assert call["prediction"] == call["reference"] == 'get_weather\n{"city": "Rome"}'


def test_no_prediction_holds_a_special_token(rows_and_report) -> None:
    rows, _ = rows_and_report
    assert not any("<|" in row["prediction"] for row in rows)


def test_no_prompt_holds_its_own_reference(rows_and_report) -> None:
    rows, _ = rows_and_report
    assert not any(row["reference"] in row["prompt"] for row in rows)


def test_a_prompt_stays_the_same_whatever_its_reference_says(engine: HFEngine, samples: list[Sample]) -> None:
    questions, _ = ask(engine.template, samples, turns="all", max_input_length=None)
    conversations = {sample.origin: sample.conversation for sample in samples}
    for question in questions:
        messages = list(conversations[question.origin].messages)
        messages[question.turn] = Message("assistant", "something else")
        other = Sample(Conversation(tuple(messages), question.asked.tools), question.origin)
        asked, _ = ask(engine.template, [other], turns="all", max_input_length=None)
        (same_turn,) = [one for one in asked if one.turn == question.turn]
        assert (same_turn.prompt, same_turn.reference.content) == (question.prompt, "something else")


def test_calls_that_cannot_be_read_back_are_left_out_and_counted(
    engine: HFEngine, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.template, "dialect", replace(engine.template.dialect, read_calls=None))
    questions, skipped = ask(engine.template, samples, turns="all", max_input_length=None)
    assert {question.kind for question in questions} == {"text"}
    assert skipped == {"tool call, which cannot be read back in this chat template's spelling": 1}


def test_the_last_turn_alone_can_be_asked_for(engine: HFEngine, samples: list[Sample]) -> None:
    questions, _ = ask(engine.template, samples, turns="last", max_input_length=None)
    assert [(question.origin, question.turn) for question in questions] == [
        ("dev.jsonl:1", 1),
        ("dev.jsonl:2", 1),
        ("dev.jsonl:3", 1),
        ("dev.jsonl:4", 3),
    ]


def test_a_turn_that_is_context_only_is_no_question(engine: HFEngine, samples: list[Sample]) -> None:
    messages = samples[3].conversation.messages
    muted = replace(samples[3].conversation, messages=(*messages[:3], replace(messages[3], train=False)))
    questions, _ = ask(engine.template, [Sample(muted, "a:1")], turns="last", max_input_length=None)
    assert [question.turn for question in questions] == [1]


def test_turns_that_cannot_be_asked_are_counted_by_reason(engine: HFEngine, samples: list[Sample]) -> None:
    odd = [
        Sample(Conversation((Message("user", "and?"),)), "a:1"),
        Sample(Conversation((Message("assistant", "hello"), Message("user", "hi"))), "a:2"),
        Sample(Conversation((Message("user", "hi"), Message("assistant", " \n"))), "a:3"),
        Sample(Conversation((Message("user", "hi " * 50), Message("assistant", "no"))), "a:4"),
    ]
    report = evaluate(engine, [*odd, samples[0]], sampling=LONG, max_input_length=40)
    assert report.skipped == {
        "no assistant turn": 1,
        "opens its conversation": 1,
        "empty reference": 1,
        "prompt too long": 1,
    }
    assert (report.conversations, report.turns) == (5, 1)
    assert "1 left out: prompt too long" in report.lines()[-1]


def test_a_prompt_as_long_as_the_limit_is_asked_and_one_token_more_is_not(
    engine: HFEngine, samples: list[Sample]
) -> None:
    length = len(engine.template.prompt(samples[0].conversation.before(1)))
    for limit, asked in ((length, 1), (length - 1, 0)):
        questions, _ = ask(engine.template, samples[:1], turns="all", max_input_length=limit)
        assert len(questions) == asked


def test_a_reference_counts_whole_when_the_answer_is_cut_off(engine: HFEngine, samples: list[Sample]) -> None:
    report = evaluate(engine, samples[1:2], sampling=Sampling(max_new_tokens=4))
    assert report.cut_off == 1
    assert 0 < report.scores["rouge-l"] < 100


def test_a_wrong_call_a_missing_call_and_an_unasked_call_are_told_apart(
    engine: HFEngine, samples: list[Sample]
) -> None:
    asked, tools = samples[3].conversation.messages[0], samples[3].conversation.tools
    wrong = Conversation(
        (asked, Message("assistant", tool_calls=(ToolCall("get_weather", {"city": "Oslo"}),))), tools
    )
    missing = Conversation((Message("user", "你好"), Message("assistant", tool_calls=(ToolCall("greet", {}),))))
    unasked = Conversation((asked, Message("assistant", "Look outside.")), tools)
    report = evaluate(engine, [Sample(c, "a:1") for c in (wrong, missing, unasked)], sampling=LONG)
    assert (report.tool_calls, report.calls_parsed, report.calls_named, report.calls_right) == (2, 1, 1, 0)
    assert (report.text_turns, report.unasked_calls, report.scores["rouge-1"]) == (1, 1, 0.0)
    assert report.metrics()["tool_name"] == 0.5


def test_nothing_to_ask_is_a_report_of_nothing(engine: HFEngine, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b"earlier\n")
    report = evaluate(engine, [], predictions_path=tmp_path / "p.jsonl")
    assert (report.turns, report.scores, report.metrics()) == (0, {}, {})
    assert (tmp_path / "p.jsonl").read_bytes() == b"earlier\n"
    assert report.lines() == ["0 turns of 0 conversations"]


def test_the_report_is_plain_json_and_tells_bleu_on_both_scales(rows_and_report) -> None:
    _, report = rows_and_report
    value = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert value["bleu-4_x100"] == pytest.approx(100 * value["scores"]["bleu-4"])
    assert set(value["signatures"]) == set(value["scores"])
    bleu = next(line for line in report.lines() if line.startswith("bleu-4"))
    assert f"{value['scores']['bleu-4']:.4f}" in bleu
    assert f"{value['bleu-4_x100']:.2f} %" in bleu


def test_the_same_evaluation_gives_the_same_report(
    engine: HFEngine, samples: list[Sample], rows_and_report: tuple[list[dict[str, object]], Report]
) -> None:
    assert evaluate(engine, samples, sampling=LONG, batch_size=1) == rows_and_report[1]


def test_predictions_keep_their_old_state_when_evaluation_fails(
    engine: HFEngine, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("old\n")
    monkeypatch.setattr(module, "_row", lambda *_: {"not": object()})
    with pytest.raises(TypeError):
        evaluate(engine, samples[:1], sampling=LONG, predictions_path=path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old\n"]


def test_a_taught_conversation_surprises_less_than_a_strange_one(
    engine: HFEngine, samples: list[Sample]
) -> None:
    known = reference_loss(engine, samples, max_length=1024)
    strange = Sample(Conversation((Message("user", "你好"), Message("assistant", "Behind the river."))), "a:1")
    unknown = reference_loss(engine, [strange], max_length=512)
    assert known is not None
    assert unknown is not None
    assert known.value < 0.2 < unknown.value
    assert known.perplexity < 1.3 < unknown.perplexity
    assert "perplexity" in "\n".join(evaluate(engine, []).with_loss(known).lines())


def test_conversations_too_long_for_the_loss_are_left_out_and_said(
    engine: HFEngine, samples: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reference_loss(engine, samples[:2], max_length=3) is None
    assert "2 of 2 conversations left out" in capsys.readouterr().err
    assert evaluate(engine, []).with_loss(None).as_dict()["perplexity"] is None


def test_a_loss_too_large_for_a_perplexity_is_infinite() -> None:
    assert Loss(1000.0, 1).perplexity == float("inf")


def test_calls_that_the_data_accepts_are_counted_beside_those_that_are_equal(
    engine: HFEngine, samples: list[Sample]
) -> None:
    asked, _, *_ = samples[3].conversation.messages  # the model calls get_weather with {"city": "Rome"}
    oslo = (ToolCall("get_weather", {"city": "Oslo"}),)
    accepted: list[tuple[tuple[Any, ...], bool]] = [
        (({"get_weather": {"city": ["Oslo", "ROME."]}},), True),
        (({"get_weather": {"city": ["Oslo", "Paris"]}},), False),
        ((), False),  # none named: it must be equal
    ]
    several = [
        Conversation(
            (asked, Message("assistant", tool_calls=oslo, accepted=one)), samples[3].conversation.tools
        )
        for one, _ in accepted
    ]
    report = evaluate(engine, [Sample(c, "a:1") for c in several], sampling=LONG)
    assert (report.tool_calls, report.calls_right, report.calls_accepted) == (3, 0, 1)
    assert report.metrics()["tool_accepted"] == pytest.approx(1 / 3)
    assert report.as_dict()["tool_calls"]["accepted"] == 1
    assert any(line.startswith("accepted") and "1 of 3" in line for line in report.lines())
    for conversation, (_, right) in zip(several[:2], accepted, strict=False):
        assert evaluate(engine, [Sample(conversation, "a:1")], sampling=LONG).calls_accepted == right
    assert evaluate(engine, [Sample(several[2], "a:1")], sampling=LONG).calls_accepted is None
