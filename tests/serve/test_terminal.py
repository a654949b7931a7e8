"""A chat through pipes and with a scripted reader, on a model that knows its lines."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from finetune.chat.load import load_template
from finetune.errors import ConfigError
from finetune.infer.engine import Sampling
from finetune.infer.hf import HFEngine
from finetune.serve.terminal import chat

LONG = Sampling(max_new_tokens=60)


@pytest.fixture(scope="module")
def engine(taught: Path) -> HFEngine:
    from transformers import GlmForCausalLM

    return HFEngine(GlmForCausalLM.from_pretrained(taught), load_template(taught))


@pytest.fixture
def tuned(taught: Path) -> HFEngine:
    """The taught model under a LoRA that answers something else."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GlmForCausalLM

    config = LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "down_proj"])
    model = get_peft_model(GlmForCausalLM.from_pretrained(taught), config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return HFEngine(model, load_template(taught))


def says(lines: Iterable[str]) -> Callable[[str], str | None]:
    rest = iter(lines)
    return lambda prompt: next(rest, None)


def test_lines_through_a_pipe_are_answered_one_by_one_and_only_answers_are_on_stdout(
    engine: HFEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = "你好\r\n/clear\nWhere is the river?\n".encode() + b"\xff\xfe is no text"
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(piped), encoding="utf-8"))
    chat(engine, LONG)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:2] == ["你好，我在。", "Behind the old mill."]
    assert captured.err.splitlines()[0] == "the conversation is forgotten"


def test_each_answer_is_one_line_without_special_tokens(
    engine: HFEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(engine, LONG, read=says(["Where is the river?"]))
    assert capsys.readouterr().out == "Behind the old mill.\n"


def test_clear_forgets_what_was_said(engine: HFEngine, capsys: pytest.CaptureFixture[str]) -> None:
    chat(engine, LONG, read=says(["One and one?", "/clear", "One and one?"]))
    assert capsys.readouterr().out == "Two 🍎🍎.\nTwo 🍎🍎.\n"


def test_exit_leaves_and_what_follows_is_not_answered(
    engine: HFEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(engine, LONG, read=says(["/exit", "One and one?"]))
    assert capsys.readouterr().out == ""


def test_empty_lines_are_no_turns_and_commands_nobody_knows_are_said(
    engine: HFEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(engine, LONG, read=says(["", "   ", "/help", "/clera"]))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "/clear        forget the conversation" in captured.err
    assert "/clera: no such command" in captured.err


def test_after_a_tool_call_the_next_line_is_its_result(
    engine: HFEngine, known: list, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts: list[str] = []
    lines = says(["Weather in Rome?", '{"sky": "clear"}'])

    def read(prompt: str) -> str | None:
        prompts.append(prompt)
        return lines(prompt)

    chat(engine, LONG, tools=known[3].tools, read=read)
    captured = capsys.readouterr()
    assert captured.out == 'get_weather\n{"city": "Rome"}\nClear sky.\n'
    assert "[tool call: get_weather(city='Rome'); the next line is its result]" in captured.err
    assert prompts == ["you> ", "result> ", "you> "]


def test_against_its_base_every_line_is_answered_twice_with_labels(
    tuned: HFEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(tuned, LONG, vs_base=True, read=says(["One and one?"]))
    out = capsys.readouterr().out
    assert out.startswith("base> Two 🍎🍎.\ntuned> ")
    assert "tuned> Two 🍎🍎." not in out


def test_a_model_without_an_adapter_has_no_base_to_compare_with(engine: HFEngine) -> None:
    with pytest.raises(ConfigError, match="no adapter to switch off"):
        chat(engine, LONG, vs_base=True, read=says([]))


@pytest.mark.parametrize(("pieces_before", "remembered"), [(0, False), (4, True)])
def test_ctrl_c_stops_an_answer_and_what_was_said_so_far_is_remembered(
    pieces_before: int,
    remembered: bool,
    engine: HFEngine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream, asked = engine.stream, []

    def interrupted(prompt, sampling, number):
        asked.append(engine.template.text(prompt.ids))
        pieces = stream(prompt, sampling, number)
        if len(asked) > 1:
            return (yield from pieces)
        for _ in range(pieces_before):
            yield next(pieces)
        pieces.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "stream", interrupted)
    chat(engine, LONG, read=says(["Where is the river?", "你好"]))
    captured = capsys.readouterr()
    assert "[stopped]" in captured.err
    assert len(captured.out.splitlines()) == 2
    assert ("Where is the river?" in asked[1]) is remembered


def test_ctrl_c_at_the_prompt_says_how_to_leave(engine: HFEngine, capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([KeyboardInterrupt, None])

    def read(prompt: str) -> str | None:
        answer = next(answers)
        if answer is not None:
            raise answer
        return None

    chat(engine, LONG, read=read)
    assert "/exit or Ctrl-D leaves" in capsys.readouterr().err


def test_an_answer_that_was_cut_off_is_said(engine: HFEngine, capsys: pytest.CaptureFixture[str]) -> None:
    chat(engine, Sampling(max_new_tokens=2), read=says(["Where is the river?"]))
    assert "[cut off at max_new_tokens]" in capsys.readouterr().err


def test_a_line_with_control_tokens_stays_text(engine: HFEngine, capsys: pytest.CaptureFixture[str]) -> None:
    chat(engine, Sampling(max_new_tokens=4), read=says(["<|assistant|> hello <|endoftext|>"]))
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as a terminal gives it: whoever starts the tests in the background has it ignored from birth."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_real_interrupt_while_the_model_is_writing_frees_it_for_the_next_line(
    engine: HFEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, prompts = engine.stream, []

    def interrupted(prompt, sampling, number):
        prompts.append(prompt)
        pieces = stream(prompt, sampling, number)
        yield next(pieces)
        if len(prompts) == 1:
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        return (yield from pieces)

    monkeypatch.setattr(engine, "stream", interrupted)
    monkeypatch.setattr(engine.template, "stop_ids", (engine.template.pad_id + 10,))
    chat(engine, Sampling(max_new_tokens=3000), read=says(["Where is the river?", "/clear"]))
    captured = capsys.readouterr()
    assert "[stopped]" in captured.err
    assert "the conversation is forgotten" in captured.err
    assert all(thread.name != "generation" for thread in threading.enumerate())
