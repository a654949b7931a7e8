"""`finetune generate`: one line out per conversation, in order, and resumable at any byte."""

import fcntl
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message
from finetune.config.schema import DataConfig
from finetune.data.dataset import Sample, load_conversations
from finetune.errors import DataError, FolderInUseError, StorageError
from finetune.infer.batch import generate_file
from finetune.infer.engine import Sampling
from finetune.infer.hf import HFEngine

LONG = Sampling(max_new_tokens=60)


@pytest.fixture(scope="module")
def engine(taught: Path) -> HFEngine:
    from transformers import GlmForCausalLM

    return HFEngine(GlmForCausalLM.from_pretrained(taught), load_template(taught))


@pytest.fixture(scope="module")
def samples(known: Sequence[Conversation]) -> list[Sample]:
    asked = [conversation.before(1) for conversation in known] * 4
    return [Sample(conversation, f"in.jsonl:{line}") for line, conversation in enumerate(asked, start=1)]


def run(engine: HFEngine, samples: Sequence[Sample], output: Path, **changes: object) -> int:
    settings = {"sampling": LONG, "batch_size": 2, "author": {"model": "taught"}} | changes
    return generate_file(lambda: engine, samples, output, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(engine: HFEngine, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    assert run(engine, samples, output) == len(samples)
    return output.read_bytes()


def test_there_is_one_line_per_conversation_in_the_order_of_the_input(
    finished: bytes, samples: list[Sample]
) -> None:
    rows = [json.loads(line) for line in finished.splitlines()]
    assert [row["origin"] for row in rows] == [sample.origin for sample in samples]
    assert [row["messages"][-1]["content"] for row in rows[:3]] == [
        "你好，我在。",
        "Behind the old mill.",
        "Two 🍎🍎.",
    ]


def test_a_tool_call_is_written_as_openai_writes_it(finished: bytes) -> None:
    row = json.loads(finished.splitlines()[3])
    call = row["messages"][-1]["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    assert row["tools"][0]["function"]["name"] == "get_weather"


def test_the_output_is_conversations_again(finished: bytes, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(finished)
    again = load_conversations(DataConfig(train_file="out.jsonl"), "out.jsonl", tmp_path)
    assert again[1].conversation.messages[-1].content == "Behind the old mill."
    assert again[3].conversation.messages[-1].tool_calls[0].arguments == {"city": "Rome"}


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.35, 0.5, 0.77, 0.999, 1.0])
def test_a_run_stopped_at_any_byte_ends_with_the_same_file(
    kept: float, finished: bytes, engine: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(finished[: int(len(finished) * kept)])
    whole = output.read_bytes().count(b"\n")
    assert run(engine, samples, output) == len(samples) - whole
    assert output.read_bytes() == finished


def test_a_longer_input_goes_on_where_the_shorter_one_ended(
    finished: bytes, engine: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    run(engine, samples[:5], output)
    assert run(engine, samples, output) == len(samples) - 5
    assert output.read_bytes() == finished


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", r"out.jsonl:1: not a line that `finetune generate` wrote"),
        (b'{"messages": 3}\n', r"out.jsonl:1: not a line"),
        (b"[]\n", r"out.jsonl:1: not a line"),
        (
            b'{"messages": [{"role": "user", "content": "else"}, {}]}\n',
            r"out.jsonl:1: answers another conversation",
        ),
    ],
)
def test_a_file_that_is_something_else_is_refused_and_kept(
    content: bytes, message: str, engine: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(content)
    with pytest.raises(FolderInUseError, match=message) as refused:
        run(engine, samples, output)
    assert refused.value.exit_code == 3
    assert output.read_bytes() == content


def test_a_file_of_something_else_without_a_line_end_is_refused_and_kept(
    engine: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(b"my only copy of a poem")
    with pytest.raises(FolderInUseError, match="not a line"):
        run(engine, samples, output)
    assert output.read_bytes() == b"my only copy of a poem"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"author": {"model": "another"}}, "was written by taught, not by another"),
        ({"sampling": replace(LONG, seed=3)}, "other sampling settings"),
    ],
)
def test_lines_of_another_model_or_sampling_are_not_added_to(
    changes: dict[str, object],
    message: str,
    finished: bytes,
    engine: HFEngine,
    samples: list[Sample],
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(finished[: len(finished) // 2])
    with pytest.raises(FolderInUseError, match=message):
        run(engine, samples, output, **changes)
    assert output.read_bytes() == finished[: len(finished) // 2]


def test_a_shorter_input_is_another_input(
    finished: bytes, engine: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_bytes(finished)
    with pytest.raises(FolderInUseError, match="has 16 lines, INPUT 2 conversations"):
        run(engine, samples[:2], output)


def test_two_processes_do_not_write_one_file(engine: HFEngine, samples: list[Sample], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with output.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match="another process is writing it"):
            run(engine, samples, output)


def test_a_conversation_that_ends_with_an_answer_is_answered_anew(
    known: Sequence[Conversation], engine: HFEngine, tmp_path: Path
) -> None:
    run(
        engine,
        [Sample(replace(known[1], messages=(known[1].messages[0], Message("assistant", "?"))), "a:1")],
        tmp_path / "out.jsonl",
    )
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert [message["content"] for message in row["messages"]] == [
        "Where is the river?",
        "Behind the old mill.",
    ]


def test_a_conversation_of_an_answer_alone_is_refused_with_its_place(engine: HFEngine, tmp_path: Path) -> None:
    lonely = Sample(Conversation((Message("assistant", "hi"),)), "a:7")
    with pytest.raises(DataError, match="a:7: nothing but an answer"):
        run(engine, [lonely], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_output_that_cannot_be_written_is_a_storage_error(
    engine: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises((StorageError, FolderInUseError), match="folder"):
        run(engine, samples, tmp_path / "folder")


def test_the_folder_of_the_output_is_made(engine: HFEngine, samples: list[Sample], tmp_path: Path) -> None:
    assert run(engine, samples[:1], tmp_path / "new" / "out.jsonl") == 1


def test_no_model_is_loaded_when_nothing_is_left_to_do(
    finished: bytes, samples: list[Sample], tmp_path: Path
) -> None:
    def load() -> HFEngine:
        raise AssertionError("loaded")

    output = tmp_path / "out.jsonl"
    output.write_bytes(finished)
    assert generate_file(load, samples, output, sampling=LONG, batch_size=2, author={"model": "taught"}) == 0


def test_a_device_is_not_read_as_half_done_work(engine: HFEngine, samples: list[Sample]) -> None:
    with pytest.raises(FolderInUseError, match="/dev/zero: is no regular file"):
        run(engine, samples, Path("/dev/zero"))
