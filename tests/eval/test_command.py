"""`finetune eval` and `finetune generate` as functions: what they write, and where."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune.chat.messages import Conversation
from finetune.errors import DataError, FolderInUseError, ModelError
from finetune.eval.command import evaluate_file
from finetune.infer.batch import as_openai
from finetune.infer.command import generate_answers
from finetune.infer.engine import Sampling


@pytest.fixture
def data(known: Sequence[Conversation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "dev.jsonl"
    lines = (json.dumps(as_openai(conversation), ensure_ascii=False) for conversation in known)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_an_evaluation_writes_predictions_and_scores(taught: Path, data: Path) -> None:
    report = evaluate_file(str(taught), "dev.jsonl", batch_size=2)
    place = data.parent / "eval-model" / "dev"
    assert report.scores["rouge-l"] == 100.0
    assert len((place / "predictions.jsonl").read_text(encoding="utf-8").splitlines()) == report.turns == 5
    scores = json.loads((place / "scores.json").read_text())
    assert scores["scores"] == report.scores
    assert scores["perplexity"] < 1.1


def test_a_yaml_that_drops_thoughts_drops_them_from_the_references(taught: Path, data: Path) -> None:
    """GLM-4's template has no words for thoughts: with them the file could not be spelt at all."""
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    for message in (message for row in rows for message in row["messages"] if message["role"] == "assistant"):
        if message["content"]:
            message["content"] = f"<think>\nhm\n</think>\n\n{message['content']}"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    config = data.parent / "drop.yaml"
    config.write_text("data_config: {train_file: dev.jsonl, thinking: drop}\n")
    report = evaluate_file(str(taught), "dev.jsonl", config=config, batch_size=2)
    assert (report.scores["rouge-l"], report.turns) == (100.0, 5)


def test_a_limit_counts_conversations(taught: Path, data: Path, tmp_path: Path) -> None:
    report = evaluate_file(str(taught), str(data), limit=2, output=tmp_path / "out")
    assert (report.conversations, report.turns) == (2, 2)


def test_what_is_missing_is_told_before_a_model_is_loaded(taught: Path, data: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        evaluate_file(str(taught), "none.jsonl")
    with pytest.raises(ModelError, match="no such folder"):
        evaluate_file(str(taught / "nothing"), "dev.jsonl")


def test_answers_are_generated_once_and_by_one_model(taught: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    def generate(output: Path, quantization: str | None) -> int:
        greedy = Sampling(max_new_tokens=60)
        options = {"batch_size": 2, "quantization": quantization, "trust_remote_code": False}
        return generate_answers(str(taught), "dev.jsonl", output, sampling=greedy, **options)

    assert generate(output, None) == 4
    written = output.read_bytes()
    assert generate(output, None) == 0
    with pytest.raises(FolderInUseError, match="was written by"):
        generate(output, "nf4")
    assert output.read_bytes() == written
    last = json.loads(written.splitlines()[3])
    assert [message["role"] for message in last["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert last["messages"][-1]["content"] == "Clear sky."


def test_a_file_without_answers_has_nothing_to_score(taught: Path, data: Path) -> None:
    (data.parent / "questions.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello?"}]}\n')
    with pytest.raises(DataError, match=r"nothing to score \(1 left out: no assistant turn"):
        evaluate_file(str(taught), "questions.jsonl")
